"""Nothing reaches for the network: imports, --help of every binary, a run, its report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BINARIES = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))
CLIENTS = ("npm", "apt-get", "apt", "pip", "curl", "wget", "ssh", "scp", "gsutil")

# Python tells a hook of each of these before it is done, in whatever library.
DRIVER = """
import json, os, sys

tried, place = [], "imports"

def hear(event, arguments):
    words = str(arguments[0]).split("/") if event == "subprocess.Popen" else ()
    reaches = event.split(".")[0] in ("urllib", "http", "ftplib", "smtplib", "imaplib", "telnetlib", "webbrowser")
    asks = event in {"socket." + name for name in CALLS} and not isinstance(arguments[-1], (str, bytes))
    if reaches or asks or words and words[-1] in CLIENTS or event == "socket.getaddrinfo":
        tried.append([place, event, repr(arguments)[:200]])
        raise OSError("no network here")

CALLS = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg", "bind")
CLIENTS, BINARIES, REACH = (json.loads(word) for word in sys.argv[1:4])
sys.addaudithook(hear)

import importlib, pathlib
import ctrain_jax, ctrain_jax.testing
from ctrain_jax import analysis, continual, core, metrics, models, ops, optim, peft, streams
from experiments import _cli

for name in BINARIES:
    module = importlib.import_module(f"experiments.{name}")
    place = f"--help of {name}"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 1)
        sys.argv = [f"{name}.py", "--help"]
        module.define_flags()
        try:
            _cli.run(module.main)
        except SystemExit:
            sys.stdout.flush()
            os.write(2, json.dumps(tried).encode())
            os._exit(len(tried))
    os.close(writer)
    text = b"".join(iter(lambda: os.read(reader, 1 << 16), b"")).decode()
    assert os.waitpid(child, 0)[1] == 0 and "USAGE" in text, (name, text)

import jax
jax.config.update("jax_disable_most_optimizations", True)
from configs.continual import er
from experiments import continual, report

place = "a run"
config = er.get_config("runlocal")
config.steps, config.scenario.num_experiences, config.model.hidden = 2, 2, (4,)
assert continual.train(config, "run", quiet=True)["finished"]
core.predictor(*continual.load("run"))(streams.digits().test["inputs"][:2])
place = "the report"
report.write_report([pathlib.Path("run")], pathlib.Path("report.html"))
place = "a data set that is not there"
try:
    streams.tfds("mnist", "nowhere")
except FileNotFoundError:
    pass
if REACH:
    place = "on purpose"
    import socket, urllib.request
    for reach in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.socket().connect(("192.0.2.1", 80)),
        lambda: urllib.request.urlopen("http://192.0.2.1"),
        lambda: __import__("subprocess").run(["/usr/bin/npm", "--version"]),
    ):
        try:
            reach()
        except OSError:
            pass
print(json.dumps(tried))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """(where, event, arguments) of each attempt; the last ones are made on purpose."""
    folder = tmp_path_factory.mktemp("network")
    words = [json.dumps(list(word)) for word in (CLIENTS, BINARIES)] + ["true"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TFDS_DATA_DIR": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_attempt_is_made(tried):
    assert [one for one in tried if one[0] != "on purpose"] == []


def test_an_attempt_would_be_seen(tried):
    assert [event for place, event, _ in tried if place == "on purpose"] == [
        "socket.getaddrinfo", "socket.connect", "urllib.Request", "subprocess.Popen",
    ]  # fmt: skip


def test_data_sets_are_fetched_by_name_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": str(tmp_path), "TFDS_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "experiments.data"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: --name is needed, as in --name=mnist: nothing is fetched that was not asked for"
    )
    assert list(tmp_path.iterdir()) == []
