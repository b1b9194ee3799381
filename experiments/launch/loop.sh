#!/usr/bin/env bash
# The launcher loop: runs a command again while going on makes sense, and ends with its last exit code.
#
#   bash experiments/launch/loop.sh python -m experiments.continual --config=FILE --workdir=DIR
#
# RESTARTS=5   it gives up after so many restarts in a row without a new checkpoint in the --workdir of the command
# PAUSE=60     seconds to wait after exit code 4, a disk that refuses
# DRY_RUN=1    print the command, and run nothing
#
# The codes are told in docs/launch.md. SIGTERM and SIGINT go on to the command, and nothing is started after them.
set -eu

if [ $# = 0 ]; then
  echo "error: loop.sh expects a command, as in: loop.sh python -m experiments.continual --workdir=DIR ..." >&2
  exit 2
fi
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "$@"
  echo
  exit 0
fi

workdir='' before=''
for argument in "$@"; do
  case $before in --workdir) workdir=$argument ;; esac
  case $argument in --workdir=*) workdir=${argument#*=} ;; esac
  before=$argument
done

newest() { # a checkpoint that is not written to its end has a longer name
  [ -z "$workdir" ] || ls "$workdir/checkpoints" 2>/dev/null | grep -x '[0-9]*' | sort -n | tail -n 1
}

hand_on() {
  signals=$((signals + 1))
  kill -s "$1" "$!" 2>/dev/null || true
}

signals=0 failed=0
trap 'hand_on TERM' TERM
trap 'hand_on INT' INT
set -m # a group of its own for the command: what a terminal sends to this one reaches it once, through hand_on

while :; do
  before=$(newest)
  "$@" </dev/null &
  while # a signal ends `wait`, but not yet the command
    seen=$signals code=0
    wait "$!" || code=$?
    [ "$seen" != "$signals" ]
  do :; done
  case $code in 0 | 2 | 3 | 126 | 127 | 130 | 143) exit "$code" ;; esac
  [ "$signals" = 0 ] || exit "$code"
  [ "$(newest)" = "$before" ] || failed=0
  failed=$((failed + 1))
  if [ "$failed" -gt "${RESTARTS:-5}" ]; then
    echo "loop.sh: exit code $code, and no checkpoint after ${RESTARTS:-5} restarts: giving up" >&2
    exit "$code"
  fi
  echo "loop.sh: exit code $code, restart $failed of ${RESTARTS:-5} without a new checkpoint" >&2
  if [ "$code" = 4 ]; then
    sleep "${PAUSE:-60}" &
    wait "$!" || true
    [ "$signals" = 0 ] || exit "$code"
  fi
done
