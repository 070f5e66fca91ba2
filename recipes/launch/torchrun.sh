#!/usr/bin/env bash
# Train with every device of one machine:
#
#   recipes/launch/torchrun.sh pretrain recipe.yaml [key=value ...]
#
# The same command again goes on where a run was interrupted. When a rank dies, torchrun starts all of them again, and
# they go on from the last checkpoint. TERM, INT and USR1 reach the ranks, which finish their step, save, and exit 0.
#
#   PROCESSES      ranks; one for each GPU, or one without any
#   MAX_RESTARTS   times that dead ranks are started again (3)
#   GRACE_S        seconds that ranks have to save after a signal, before torchrun ends them (600)
#   LOCAL          folder on a disk of this machine, for what is compiled ($TMPDIR/speechssl-$USER)
#   PYTHON         interpreter (python)
set -euo pipefail

if (($# < 2)); then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
fi
python=${PYTHON:-python}
processes=${PROCESSES:-$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)}
local=${LOCAL:-${TMPDIR:-/tmp}/speechssl-${USER:-$UID}}
mkdir -p "$local"
export TORCHINDUCTOR_CACHE_DIR=$local/inductor TRITON_CACHE_DIR=$local/triton  # a shared disk is slow, and ranks race
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

"$python" -m torch.distributed.run --standalone --nproc-per-node "$((processes > 0 ? processes : 1))" \
  --max-restarts "${MAX_RESTARTS:-3}" -m speechssl "$@" &
agent=$!

# shellcheck disable=SC2317,SC2329  # the trap calls it
stop() {  # tells the ranks themselves: torchrun, given the signal, would pass it on and kill them 30 s later
  pkill -TERM -P "$agent" || true
  (sleep "${GRACE_S:-600}" && kill -TERM "$agent") >/dev/null 2>&1 &
  watch=$!
}
trap stop TERM INT USR1

status=0
while true; do  # a signal ends a wait before its process ends
  wait "$agent" && status=0 || status=$?
  kill -0 "$agent" 2>/dev/null || break
done
if ((status > 128)); then
  wait "$agent" && status=0 || status=$?
fi
[[ -z ${watch:-} ]] || pkill -P "$watch" sleep || true
exit "$status"
