#!/usr/bin/env bash
# Train on nodes of a Slurm cluster, one task a device:
#
#   sbatch --nodes 8 recipes/launch/slurm.sh pretrain recipe.yaml [key=value ...]
#
# Set what follows for your cluster. srun starts the ranks itself: torchrun would kill them 30 s after a signal.
#   a rank dies       all are started again, MAX_RESTARTS times, and go on from the last checkpoint
#   a node dies       Slurm puts the job back into the queue (--requeue)
#   preemption        Slurm sends TERM: the ranks finish their step, save and exit 0; then it puts the job back
#   the time is over  USR1 comes 10 minutes before: they save likewise, and the job puts itself back
#
#   MAX_RESTARTS   (3)
#   STAGE          folder of the audio, copied to every node's own disk first; training reads it there
#   LOCAL          folder on each node's own disk, the same path on all and after every restart
#   PYTHON         interpreter (python)
#SBATCH --job-name=speechssl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
set -euo pipefail

if (($# < 2)); then
  echo "usage: sbatch [--nodes N ...] slurm.sh pretrain recipe.yaml [key=value ...]" >&2
  exit 2
fi
export PYTHON=${PYTHON:-python} LOCAL=${LOCAL:-/tmp/speechssl-${USER:-$UID}}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR

if [[ -n ${STAGE:-} ]]; then
  # shellcheck disable=SC2016  # to be expanded by the task
  srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    bash -c 'mkdir -p "$LOCAL/audio" && cp -ru "$STAGE/." "$LOCAL/audio/"'
  set -- "$@" "data.root=$LOCAL/audio"
fi

# What each task runs. Signals of Slurm reach a task's whole process group, with the processes that read audio, which
# would die of them: the rank gets a group of its own, and signals from here.
# shellcheck disable=SC2016  # to be expanded by the task
task='
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export TORCHINDUCTOR_CACHE_DIR=$LOCAL/inductor TRITON_CACHE_DIR=$LOCAL/triton
mkdir -p "$LOCAL"
setsid "$PYTHON" -m speechssl "$@" &
rank=$!
trap "kill -TERM $rank" TERM USR1
status=0
while true; do
  wait "$rank" && status=0 || status=$?
  kill -0 "$rank" 2>/dev/null || break
done
if ((status > 128)); then
  wait "$rank" && status=0 || status=$?
fi
exit "$status"
'

time_is_over=0
trap 'time_is_over=1; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1  # which reaches the tasks, not this shell

for ((attempt = 0; attempt <= ${MAX_RESTARTS:-3}; attempt++)); do
  export MASTER_PORT=$((20000 + (SLURM_JOB_ID + attempt) % 20000))
  ((attempt == 0)) || echo "slurm.sh: a rank died; starting all again, $attempt of ${MAX_RESTARTS:-3}" >&2
  srun --kill-on-bad-exit=1 bash -c "$task" task "$@" &
  step=$!
  while true; do  # a signal ends a wait before its process ends
    wait "$step" && status=0 || status=$?
    kill -0 "$step" 2>/dev/null || break
  done
  if ((status > 128)); then
    wait "$step" && status=0 || status=$?
  fi
  ((status != 0 && !time_is_over)) || break
done
if ((time_is_over)); then
  echo "slurm.sh: the time is over; back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
