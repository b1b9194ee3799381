"""Many calls of one binary: a fork each of a process that has imported everything, not a start-up of seconds."""

import json
import os
import subprocess
import sys

from tests.shown import ROOT

_DRIVER = """
import importlib, json, os, sys
from ctrain_jax import streams
from experiments import _cli

binary = importlib.import_module("experiments." + sys.argv[1])
streams.digits()  # imports scikit-learn
binary.define_flags()
for name, arguments in json.load(open("cases.json")).items():
    child = os.fork()
    if not child:
        for number, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{end}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = [sys.argv[1] + ".py", *arguments]
        try:
            _cli.run(binary.main)
        except SystemExit as end:
            print(end="", flush=True)
            # Without the second that Python takes to put everything away.
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
    with open(f"{name}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


def run_cases(folder, binary, cases):
    """Calls `experiments.<binary>` in a folder with each of the arguments in `cases`, {name: arguments}.

    What it said is in `<name>.out` and `<name>.err`, its exit code in `<name>.code`.
    """
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("DISPLAY", None)
    subprocess.run([sys.executable, "-W", "ignore", "-c", _DRIVER, binary], cwd=folder, env=environment, check=True)
