"""Launch files: sound as scripts, and run: torchrun for real, Slurm's with stand-ins for Slurm's own commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.train.checkpoint import last_checkpoint, read_state
from speechssl.train.learner import TrainConfig

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "recipes" / "launch"

SRUN = """#!/usr/bin/env bash
tasks=2
while [[ $1 == --* ]]; do
  [[ $1 != --ntasks=* ]] || tasks=${1#--ntasks=}
  shift
done
pids=()
for ((i = 0; i < tasks; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$tasks setsid "$@" &
  pids+=($!)
done
echo "${pids[@]}" >"$STAND_IN/tasks"
status=0
for ((i = 0; i < tasks; i++)); do
  wait -n && continue || found=$?  # named pids: bash 5.3 would return one that has ended a second time
  ((status)) || status=$found  # of who died first; the others are killed for it
  for pid in "${pids[@]}"; do pkill -KILL -P "$pid"; done
done
exit "$status"
"""
SCANCEL = """#!/usr/bin/env bash
echo "$@" >>"$STAND_IN/scancel"
read -ra pids <"$STAND_IN/tasks"
for pid in "${pids[@]}"; do kill -"${1#--signal=}" -- "-$pid"; done
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) echo 127.0.0.1 ;;
  *) echo "$@" >>"$STAND_IN/scontrol" ;;
esac
"""
RANK = """#!/usr/bin/env bash
[[ $1 == -m && $2 == speechssl ]] || exit 99
echo "$RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT ${*:3}" >>"$STAND_IN/rank$RANK"
case $(cat "$STAND_IN/plan") in
  end) ;;
  die) exit 7 ;;
  die-once) [[ $RANK == 0 || -e $STAND_IN/died ]] || { touch "$STAND_IN/died"; exit 7; } ;;
  wait)
    trap 'echo TERM >>"$STAND_IN/stopped$RANK"; exit 0' TERM
    touch "$STAND_IN/waiting$RANK"
    while true; do sleep 0.05; done
    ;;
esac
"""


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_a_launch_file_is_sound(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111, "not executable"
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, str(path)], check=True)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_without_a_recipe_it_says_how_it_is_used(path):
    done = subprocess.run([str(path)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "pretrain recipe.yaml" in done.stderr


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a function that starts slurm.sh with stand-ins for Slurm's commands and for the interpreter."""
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "rank": RANK}.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    started = []

    def start(plan: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        (tmp_path / "plan").write_text(plan)
        given = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "STAND_IN": str(tmp_path),
            "PYTHON": str(tmp_path / "bin" / "rank"),
            "LOCAL": str(tmp_path / "local"),
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "1",
        }
        command = [str(LAUNCH / "slurm.sh"), "pretrain", "x.yaml", *arguments]
        with (tmp_path / "said").open("a") as said:
            started.append(subprocess.Popen(command, env={**os.environ, **given, **environment}, stderr=said))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_until(is_so: Callable[[], object], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_every_task_becomes_a_rank_with_the_arguments_given(slurm, tmp_path):
    process = slurm("end", "train.steps=5")
    assert process.wait(20) == 0
    assert lines(tmp_path / "rank0") == ["0 2 0 127.0.0.1 20041 pretrain x.yaml train.steps=5"]
    assert lines(tmp_path / "rank1") == ["1 2 1 127.0.0.1 20041 pretrain x.yaml train.steps=5"]
    assert not (tmp_path / "scontrol").exists()


def test_when_a_rank_dies_all_are_started_again_at_another_port(slurm, tmp_path):
    process = slurm("die-once")
    assert process.wait(20) == 0
    assert [line.split()[4] for line in lines(tmp_path / "rank1")] == ["20041", "20042"]
    assert "a rank died; starting all again, 1 of 3" in (tmp_path / "said").read_text()


def test_ranks_that_always_die_are_given_up(slurm, tmp_path):
    process = slurm("die", MAX_RESTARTS="2")
    assert process.wait(20) == 7
    assert len(lines(tmp_path / "rank0")) <= 3
    assert not (tmp_path / "scontrol").exists()


def test_before_the_time_is_over_ranks_are_told_and_the_job_goes_back_into_the_queue(slurm, tmp_path):
    process = slurm("wait")
    wait_until(lambda: (tmp_path / "waiting0").exists() and (tmp_path / "waiting1").exists(), 20)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert [lines(tmp_path / f"stopped{rank}") for rank in (0, 1)] == [["TERM"], ["TERM"]]
    assert lines(tmp_path / "scontrol") == ["requeue 41"]
    assert len(lines(tmp_path / "rank0")) == 1


def test_a_preempted_job_ends_well_and_leaves_the_queue_to_slurm(slurm, tmp_path):
    process = slurm("wait")
    wait_until(lambda: (tmp_path / "waiting0").exists() and (tmp_path / "waiting1").exists(), 20)
    for pid in (tmp_path / "tasks").read_text().split():
        os.killpg(int(pid), signal.SIGTERM)
    assert process.wait(20) == 0
    assert [lines(tmp_path / f"stopped{rank}") for rank in (0, 1)] == [["TERM"], ["TERM"]]
    assert not (tmp_path / "scontrol").exists()


def test_staged_audio_is_copied_and_read_from_the_local_disk(slurm, tmp_path):
    (tmp_path / "audio" / "a").mkdir(parents=True)
    (tmp_path / "audio" / "a" / "x.flac").write_text("x")
    process = slurm("end", STAGE=str(tmp_path / "audio"))
    assert process.wait(20) == 0
    assert (tmp_path / "local" / "audio" / "a" / "x.flac").read_text() == "x"
    assert lines(tmp_path / "rank0")[0].endswith(f"data.root={tmp_path}/local/audio")


@pytest.fixture
def recipe(tmp_path: Path, make_corpus, tiny_encoder) -> PretrainConfig:
    config = PretrainConfig(
        out=tmp_path / "run",
        data=DataConfig(manifests=(make_corpus(tmp_path / "corpus"),)),
        encoder=tiny_encoder,
        objective=ContrastiveConfig(dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8)),
        batch=BatchConfig(seconds=2.0, max_crop_s=1.0, min_s=0.1),
        train=TrainConfig(steps=150, log_every=10, save_every=10),
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return config


def steps_done(run: Path) -> int:
    return 0 if (checkpoint := last_checkpoint(run)) is None else read_state(checkpoint).step


def ranks_of(script: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of the ranks: children of torchrun, which is a child of the script."""

    def children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    return [rank for agent in children(script.pid) for rank in children(agent)]


@pytest.mark.slow
def test_torchrun_stops_when_told_goes_on_survives_a_dead_rank_and_ends(recipe, tmp_path):
    environment = {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "PROCESSES": "2",
        "LOCAL": str(tmp_path / "local"),
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }

    def start() -> subprocess.Popen[bytes]:
        command = [str(LAUNCH / "torchrun.sh"), "pretrain", str(tmp_path / "recipe.yaml")]
        with (tmp_path / "said").open("w") as said:
            return subprocess.Popen(command, env={**os.environ, **environment}, stdout=said, stderr=said)

    told = start()
    wait_until(lambda: steps_done(recipe.out) >= 10, 180)
    told.send_signal(signal.SIGTERM)
    assert told.wait(60) == 0, (tmp_path / "said").read_text()
    stopped_at = steps_done(recipe.out)
    assert 10 <= stopped_at < 150
    assert "stopped by SIGTERM" in (tmp_path / "said").read_text()

    again = start()
    wait_until(lambda: steps_done(recipe.out) > stopped_at + 10, 180)
    os.kill(ranks_of(again)[1], signal.SIGKILL)
    assert again.wait(240) == 0, (tmp_path / "said").read_text()
    state = read_state(last_checkpoint(recipe.out))
    assert (state.step, state.is_finished) == (150, True)
    assert {json.loads(line)["step"] for line in (recipe.out / "log.jsonl").read_text().splitlines()} >= {10, 150}
