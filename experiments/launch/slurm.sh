#!/usr/bin/env bash
# A run on a SLURM cluster, one process a GPU. From the checkout:
#
#   sbatch --nodes=2 experiments/launch/slurm.sh \
#     --config=configs/continual/er.py --workdir=/shared/runs/er --seeds=5
#
# The arguments are those of experiments.continual; options of sbatch come before the script and win over those below.
# --workdir is on a file system that all nodes mount.
#
# PYTHON=.venv/bin/python    with jax[cuda13]
# RESTARTS, PAUSE            of loop.sh, which runs srun
# DRY_RUN=1                  print the command of the job, and run nothing: DRY_RUN=1 bash experiments/launch/slurm.sh
#
# SLURM says TERM to the processes two minutes before the time is over. They save, and the job queues up again.
#SBATCH --job-name=ctrain
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -eu

# JAX gives a task the GPU of its number on the node, so each task is to see them all. Where one process ends with an
# error, the others are ended at once.
set -- bash experiments/launch/loop.sh srun --gpu-bind=none --kill-on-bad-exit=1 \
  "${PYTHON:-.venv/bin/python}" -m experiments.continual --distributed "$@"

if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "$@"
  echo
  exit 0
fi
trap 'exit 143' TERM # the job is cancelled, and does not queue up
code=0
"$@" || code=$?
if [ "$code" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
