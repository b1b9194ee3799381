#!/usr/bin/env bash
# A run on all hosts of a Cloud TPU pod slice, from any machine with gcloud:
#
#   TPU=NAME ZONE=us-central2-b bash experiments/launch/tpu_pod.sh \
#     --config=configs/continual/er.py --workdir=/mnt/runs/er --seeds=5
#
# The arguments are those of experiments.continual. Every host has the checkout at the same place, and --workdir is on
# a file system that all of them mount.
#
# TPU, ZONE                  of the slice
# REPO=ctrain_jax            the checkout on the hosts, from the home folder
# PYTHON=.venv/bin/python    on the hosts, with jax[tpu]
# RESTARTS, PAUSE            of loop.sh, which runs on each host
# DRY_RUN=1                  print the command, and run nothing
set -eu

: "${TPU:?the name of the slice, as in TPU=NAME}" "${ZONE:?the zone of the slice, as in ZONE=us-central2-b}"
remote=$(printf '%q ' env "RESTARTS=${RESTARTS:-5}" "PAUSE=${PAUSE:-60}" bash experiments/launch/loop.sh \
  "${PYTHON:-.venv/bin/python}" -m experiments.continual --distributed "$@")
set -- gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all \
  "--command=cd $(printf %q "${REPO:-ctrain_jax}") && exec ${remote% }"

if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "$@"
  echo
else
  exec "$@"
fi
