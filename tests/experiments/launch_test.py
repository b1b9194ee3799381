"""The launch scripts, as far as they go without a cluster: what a dry run prints, what the loop does about a code."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
ARGUMENTS = ["--config=configs/continual/er.py", "--workdir=/mnt/my runs/it's", "--sweep=ewc.lam=1,10"]
TPU = {"TPU": "pod", "ZONE": "us-central2-b"}


@pytest.fixture
def bash(tmp_path):
    """Runs a script; a tool that `tools` does not name leaves a mark and fails."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def run(script, *arguments, tools=None, **environment):
        for name in ("gcloud", "srun", "scontrol", "kubectl", "sleep"):
            (folder / name).write_text(f"#!/bin/bash\n{(tools or {}).get(name, f'touch {tmp_path}/ran; exit 9')}\n")
            (folder / name).chmod(0o755)
        environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
        done = subprocess.run(
            ["bash", LAUNCH / script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert not (tmp_path / "ran").exists()
        return done

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_parses_and_tells_its_environment(path):
    subprocess.run(["bash", "-n", path], check=True)
    head, body = path.read_text().split("\nset -eu\n")
    assert "DRY_RUN=1" in head and f"`{path.name}`" in (LAUNCH / "README.md").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+):", body))
    assert "DRY_RUN" in used and used <= set(re.findall(r"[A-Z_]+", head))


def test_the_flags_by_which_processes_find_each_other_exist():
    given = set(re.findall(r"--(distributed|coordinator|processes|process)\b", "".join(p.read_text() for p in SCRIPTS)))
    defined = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / "experiments" / "_hosts.py").read_text())
    assert len(given) == 4 and given <= set(defined)


def test_a_pod_runs_the_loop_on_every_host(bash):
    command = shlex.split(bash("tpu_pod.sh", *ARGUMENTS, DRY_RUN="1", REPO="my code", RESTARTS="7", **TPU).stdout)
    *gcloud, remote = command
    assert gcloud == "gcloud compute tpus tpu-vm ssh pod --zone=us-central2-b --worker=all".split()
    folder, run = remote.removeprefix("--command=cd ").split(" && exec ")
    assert shlex.split(folder) == ["my code"]
    loop = "env RESTARTS=7 PAUSE=60 bash experiments/launch/loop.sh .venv/bin/python -m experiments.continual"
    assert shlex.split(run) == [*loop.split(), "--distributed", *ARGUMENTS]
    missing = bash("tpu_pod.sh", DRY_RUN="1", TPU="pod")
    assert missing.returncode != 0 and "ZONE: the zone of the slice" in missing.stderr


def test_a_slurm_job_runs_one_task_a_gpu_in_a_loop(bash):
    command = shlex.split(bash("slurm.sh", *ARGUMENTS, DRY_RUN="1", PYTHON="python3").stdout)
    loop = "bash experiments/launch/loop.sh srun --gpu-bind=none --kill-on-bad-exit=1 python3 -m experiments.continual"
    assert command == [*loop.split(), "--distributed", *ARGUMENTS]
    head = (LAUNCH / "slurm.sh").read_text().split("\nset -eu\n")[0]
    options = re.findall(r"^#SBATCH (\S+)$", head, flags=re.M)
    assert {"--gpus-per-node=8", "--ntasks-per-node=8", "--signal=TERM@120", "--requeue"} <= set(options)


SRUN = "exit $CODE"
CANCELLED = "kill -TERM $(ps -o ppid= -p $PPID); exit 143"  # the job's shell, over the loop


@pytest.mark.parametrize(
    ("srun", "code", "requeued"),
    [(SRUN, 143, True), (SRUN, 0, False), (SRUN, 3, False), (CANCELLED, 143, False)],
    ids=["time is over", "finished", "hopeless", "cancelled"],
)
def test_a_slurm_job_queues_up_again_when_its_time_is_over(bash, tmp_path, srun, code, requeued):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    tools = {"srun": srun, "scontrol": "echo scontrol $@"}
    done = bash("slurm.sh", *ARGUMENTS, tools=tools, SLURM_JOB_ID="7", CODE=str(code))
    assert (done.returncode, done.stdout) == (code, "scontrol requeue 7\n" * requeued)


def manifest(text):
    """The specification of the job, of its pods, and their container."""
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]["template"]["spec"]
    (container,) = pods["containers"]
    return jobset, job, pods, container


def test_pods_find_pod_0_and_fail_for_good_where_the_loop_ends(bash):
    given = {"IMAGE": "registry/ctrain:1", "NAME": "mine", "PODS": "4", "CLAIM": "runs"}
    dry = bash("gke.sh", *ARGUMENTS, DRY_RUN="1", **given)
    jobset, job, pods, container = manifest(dry.stdout)
    spec = job["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    # JobSet names a pod by the set, the job in it, its replica and the index; the set is the domain.
    pod_0 = f"{jobset['metadata']['name']}-{job['name']}-0-0.mine"
    port = container["ports"][0]["containerPort"]
    found = [f"--coordinator={pod_0}:{port}", "--processes=4", "--process=$(JOB_COMPLETION_INDEX)"]
    assert container["command"] == ["python", "-m", "experiments.continual", *found, *ARGUMENTS]
    (index,) = [one for one in container["env"] if one["name"] == "JOB_COMPLETION_INDEX"]
    assert "job-completion-index" in index["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["image"] == given["IMAGE"] and container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pods["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pods["volumes"]}
    assert claims["runs"] == {"claimName": "runs"} and claims.keys() == {v["name"] for v in container["volumeMounts"]}
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [code for code in range(1, 126) if CODES.get(code) == "ends"]
    assert pods["restartPolicy"] == "Never" and spec["backoffLimit"] == 0
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 20 and policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    applied = bash("gke.sh", *ARGUMENTS, tools={"kubectl": "echo $@; cat"}, **given)
    assert applied.stdout == "apply -f -\n" + dry.stdout


def test_pods_of_a_tpu_slice_find_each_other(bash):
    given = {"TOPOLOGY": "4x4", "ACCELERATOR": "tpu-v5-lite-podslice", "CHIPS": "4", "PODS": "4"}
    _, _, pods, container = manifest(bash("gke.sh", *ARGUMENTS, DRY_RUN="1", IMAGE="ctrain", **given).stdout)
    assert container["command"] == ["python", "-m", "experiments.continual", "--distributed", *ARGUMENTS]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    chips = {"accelerator": "tpu-v5-lite-podslice", "topology": "4x4"}
    assert pods["nodeSelector"] == {f"cloud.google.com/gke-tpu-{key}": value for key, value in chips.items()}


def codes():
    """{exit code: what the page says that the loop does}."""
    rows = (ROOT / "docs" / "launch.md").read_text().split("<!-- codes -->")[1].split("\n\n")[0].splitlines()[3:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {int(code): does for first, _, does in cells for code in re.findall(r"\d+", first)}


CODES = codes()
# The n-th start does the n-th argument, and what is beyond them ends well.
COMMAND = ["bash", "-c", 'echo start >> starts; n=$(wc -l < starts); eval "${!n:-exit 0}"', "command"]


def starts(tmp_path):
    return len((tmp_path / "starts").read_text().splitlines())


@pytest.mark.parametrize("code", [*CODES, 99])
def test_the_loop_does_what_the_page_says_of_a_code(bash, tmp_path, code):
    done = bash("loop.sh", *COMMAND, f"exit {code}", tools={"sleep": "echo sleep $@"})
    if (does := CODES.get(code, "again, at once")) == "ends":
        assert (done.returncode, starts(tmp_path), done.stderr) == (code, 1, "")
    else:
        assert (done.returncode, starts(tmp_path)) == (0, 2)
        assert done.stderr == f"loop.sh: exit code {code}, restart 1 of 5 without a new checkpoint\n"
    assert done.stdout == ("sleep 60\n" if "`PAUSE=60` seconds" in does else "")


def test_every_code_of_the_binaries_is_in_the_table():
    own = re.findall(r"^[A-Z_]+ = (\d+)$", (ROOT / "experiments" / "_cli.py").read_text(), flags=re.M)
    assert own and {0, *map(int, own), 130, 143} <= set(CODES)


def crash(name):
    return f"mkdir -p runs/checkpoints/{name}; exit 134"


@pytest.mark.parametrize("workdir", [["--workdir=runs"], ["--workdir", "runs"]])
def test_the_loop_goes_on_as_long_as_there_are_new_checkpoints(bash, tmp_path, workdir):
    crashes = [crash(step) for step in (9, 10, 100)]  # the newest by number, not by letter
    command = [*COMMAND, *crashes, "exit 134", "exit 0", *workdir]
    done = bash("loop.sh", *command, RESTARTS="2")
    assert (done.returncode, starts(tmp_path)) == (0, 5)


def test_the_loop_gives_up_without_one(bash, tmp_path):
    half = [crash(f"{step}.orbax-checkpoint-tmp") for step in range(5)]
    done = bash("loop.sh", *COMMAND, *half, "--workdir=runs", RESTARTS="2")
    assert (done.returncode, starts(tmp_path)) == (134, 3)
    assert done.stderr.endswith("exit code 134, and no checkpoint after 2 restarts: giving up\n")
    assert bash("loop.sh").returncode == 2


def test_a_dry_loop_prints_its_command(bash, tmp_path):
    done = bash("loop.sh", *COMMAND, *ARGUMENTS, DRY_RUN="1")
    assert shlex.split(done.stdout) == [*COMMAND, *ARGUMENTS] and not (tmp_path / "starts").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_on_to_the_command_once_and_nothing_follows(tmp_path, number):
    hear = f'trap "echo heard" {number.name[3:]}; echo up; sleep 2 & wait $!; kill $!; exit 134'
    # Who starts the tests may ignore SIGINT, and a shell never hears what is ignored when it starts.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('bash', sys.argv)"
    command = [sys.executable, "-S", "-c", heard, LAUNCH / "loop.sh", *COMMAND, hear]
    loop = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert loop.stdout is not None and loop.stdout.readline() == "up\n"
    loop.send_signal(number)
    assert (loop.communicate(timeout=30)[0], loop.returncode, starts(tmp_path)) == ("heard\n", 134, 1)
