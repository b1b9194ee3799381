"""Where a result comes from: config, versions, commit, command, device."""

import functools
import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections

import ctrain_jax
from experiments import _build


def facts(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a result says of its making."""
    return {
        "config": plain(config),
        "versions": versions(),
        "commit": commit(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "device": jax.devices()[0].device_kind,
    }


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as JSON has it."""
    return json.loads(_build.refused("config", json.dumps, config.to_dict()))


def versions() -> dict[str, str]:
    """Of Python, of ours, and of what a result depends on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    own = {"python": sys.version.split()[0], "ctrain_jax": ctrain_jax.__version__}
    return own | {package: version(package) for package in packages}


@functools.cache  # asked when a run starts: the code that runs is that of then
def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where its files differ from it; None where there is none."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None  # git would go on to look in the folders above

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
