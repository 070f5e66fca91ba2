"""Logs of a run: files that survive interruptions and full disks, alarms, TensorBoard, wandb."""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from speechssl.errors import ConfigError, PackageError, TrainingError
from speechssl.train import runlog
from speechssl.train.runlog import LogConfig, RunLog, progress_bar, require_reports

QUIET = LogConfig(tensorboard=False)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_log(out, *, done=0, config=QUIET, enabled=True):
    return RunLog(out, "pretrain", steps=10, done=done, config=config, enabled=enabled)


def test_a_report_is_a_json_line_with_the_wall_time_and_a_line_on_the_console(tmp_path, capsys):
    with run_log(tmp_path / "run") as log:
        log.write(2, {"loss": 0.5, "epoch": 1}, wall_s=7.5)
        log.write(2, {"dev_cer": 0.25})
        assert lines(tmp_path / "run/log.jsonl")[0] == {"step": 2, "wall_s": 7.5, "loss": 0.5, "epoch": 1}  # flushed
    assert lines(tmp_path / "run/log.jsonl")[1] == {"step": 2, "dev_cer": 0.25}
    assert "pretrain 2/10  loss 0.5  epoch 1  left" in capsys.readouterr().err


def test_the_console_shows_headlines_and_the_file_has_all(tmp_path, capsys):
    with run_log(tmp_path) as log:
        log.write(
            1, {"loss": 0.5, "masked_accuracy_1": 0.25, "grad_norm": 2.0, "grad_norm_head": 1.0, "padding": 0.125}
        )
    assert "  loss 0.5  masked_accuracy_1 0.25  grad_norm 2  left" in capsys.readouterr().err
    assert len(lines(tmp_path / "log.jsonl")[0]) == 6


def test_metrics_that_are_not_finite_become_null_because_json_has_none(tmp_path):
    with run_log(tmp_path) as log:
        log.write(1, {"loss": float("nan"), "norm": float("inf"), "epoch": 3})
    assert lines(tmp_path / "log.jsonl") == [{"step": 1, "loss": None, "norm": None, "epoch": 3}]


def test_a_resumed_run_moves_the_lines_after_its_checkpoint_aside(tmp_path):
    with run_log(tmp_path) as log:
        for step in (2, 4, 6):
            log.write(step, {"loss": float(step)})
        log.alarm(6, "low_rank", "collapsed")
    with run_log(tmp_path, done=4) as log:
        log.write(6, {"loss": 60.0})
    assert [(row["step"], row["loss"]) for row in lines(tmp_path / "log.jsonl")] == [(2, 2.0), (4, 4.0), (6, 60.0)]
    assert lines(tmp_path / "log.superseded.jsonl") == [{"step": 6, "loss": 6.0}]
    assert lines(tmp_path / "alarms.jsonl") == []
    assert [row["name"] for row in lines(tmp_path / "alarms.superseded.jsonl")] == ["low_rank"]


def test_a_run_that_broke_off_before_its_first_checkpoint_starts_its_log_anew(tmp_path):
    for loss in (1.0, 2.0, 3.0):
        with run_log(tmp_path) as log:
            log.write(1, {"loss": loss})
    assert [row["loss"] for row in lines(tmp_path / "log.jsonl")] == [3.0]
    assert [row["loss"] for row in lines(tmp_path / "log.superseded.jsonl")] == [1.0, 2.0]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0', "\0\0\0"])
def test_a_half_written_last_line_is_cut_off_when_the_run_resumes(tmp_path, torn):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n' + torn, encoding="utf-8")
    with run_log(tmp_path, done=2) as log:
        log.write(4, {"loss": 2.0})
    assert [row["step"] for row in lines(tmp_path / "log.jsonl")] == [2, 4]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.0}', encoding="utf-8")
    with run_log(tmp_path, done=2) as log:
        log.write(4, {"loss": 2.0})
    assert [row["step"] for row in lines(tmp_path / "log.jsonl")] == [2, 4]


def test_a_log_that_nothing_needs_cut_from_is_not_rewritten(tmp_path):
    with run_log(tmp_path) as log:
        log.write(2, {"loss": 1.0})
    before = (tmp_path / "log.jsonl").stat().st_ino
    with run_log(tmp_path, done=2):
        pass
    assert (tmp_path / "log.jsonl").stat().st_ino == before
    assert not (tmp_path / "log.superseded.jsonl").exists()


def test_a_file_that_is_no_log_is_refused_before_anything_is_cut(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"message": "mine"}\n', encoding="utf-8")
    with (
        pytest.raises(TrainingError, match=r'log\.jsonl: line 2: expected an object with .* "step"'),
        run_log(tmp_path),
    ):
        pass
    assert "mine" in (tmp_path / "log.jsonl").read_text(encoding="utf-8")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Limit the size of files to imitate a full disk, which also lets a part of a line through."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:  # within the test: what pytest writes is a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_with_the_name_of_the_file_and_leaves_whole_lines(tmp_path):
    with run_log(tmp_path) as log:
        log.write(1, {"loss": 1.0})
        with full_disk((tmp_path / "log.jsonl").stat().st_size + 10), pytest.raises(TrainingError) as error:
            log.write(2, {"loss": 2.0})
    assert str(tmp_path / "log.jsonl") in str(error.value)
    assert "cannot be written (File too large); make room" in str(error.value)
    assert lines(tmp_path / "log.jsonl") == [{"step": 1, "loss": 1.0}]


def test_a_run_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(TrainingError, match=r"run/log\.jsonl: cannot be written \((File exists|Not a directory)\)"):
        run_log(tmp_path / "run").__enter__()


def test_a_tensorboard_that_cannot_be_written_is_named_with_the_key_that_turns_it_off(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    named = r"tensorboard: cannot be written \(No space.*train\.log\.tensorboard=false"
    with pytest.raises(TrainingError, match=named), run_log(tmp_path, config=LogConfig()) as log:
        monkeypatch.setattr(log._board, "add_scalar", refuse)
        log.write(1, {"loss": 1.0})


def test_tensorboard_hides_the_steps_that_a_resumed_run_writes_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, losses in ((0, {2: 2.0, 4: 4.0}), (2, {4: 40.0})):
        with run_log(tmp_path, done=done, config=LogConfig()) as log:
            for step, loss in losses.items():
                log.write(step, {"loss": loss})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(2, 2.0), (4, 40.0)]


def test_without_tensorboard_there_is_no_such_folder(tmp_path):
    with run_log(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alarms.jsonl", "log.jsonl"]


def test_an_alarm_is_a_line_of_its_file_and_red_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with run_log(tmp_path) as log:
        log.alarm(3, "low_rank", "rank 2 of [dim 256]; lower optim.lr")
    expected = {"step": 3, "name": "low_rank", "message": "rank 2 of [dim 256]; lower optim.lr"}
    assert lines(tmp_path / "alarms.jsonl") == [expected]
    printed = capsys.readouterr().err
    assert "\x1b[1;31mpretrain: ALARM at step 3: low_rank: rank 2 of [dim 256]; lower optim.lr" in printed


def test_brackets_in_a_message_are_printed_as_they_stand(tmp_path, capsys):
    with run_log(tmp_path) as log:
        log.say("skipped: [/bold] and [red]u1")
    assert "pretrain: skipped: [/bold] and [red]u1" in capsys.readouterr().err


def test_other_ranks_write_and_say_nothing(tmp_path, capsys):
    with run_log(tmp_path / "run", enabled=False) as log:
        log.write(1, {"loss": 1.0}, wall_s=1.0)
        log.alarm(1, "a", "b")
        log.say("c")
        log.advance(1, "")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_wandb_is_not_imported_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with run_log(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    config = LogConfig(tensorboard=False, wandb="speech")
    with pytest.raises(ConfigError, match=r"train\.log\.wandb=speech: wandb is not installed; pip install wandb"):
        run_log(tmp_path, config=config).__enter__()


def test_what_a_run_reports_to_is_asked_for_before_it_begins(monkeypatch):
    monkeypatch.setattr(runlog, "find_spec", lambda name: None)
    require_reports(QUIET)
    with pytest.raises(ConfigError, match=r"train\.log\.wandb=speech: wandb is not installed"):
        require_reports(LogConfig(tensorboard=False, wandb="speech"))
    with pytest.raises(PackageError, match=r"it is not installed.*set train\.log\.tensorboard=false"):
        require_reports(LogConfig())
    monkeypatch.setattr(runlog, "find_spec", lambda name: name)
    require_reports(LogConfig(wandb="speech"))


def test_what_wandb_refuses_is_one_error(tmp_path, monkeypatch):
    class RefusedError(Exception):
        pass

    def init(**settings):
        raise RefusedError("no API key")

    stub = SimpleNamespace(init=init, Error=RefusedError, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    with pytest.raises(TrainingError, match=r"wandb refuses \(no API key\); run `wandb login`, set WANDB_MODE=offline"):
        run_log(tmp_path, config=LogConfig(tensorboard=False, wandb="speech")).__enter__()


def test_wandb_offline_gets_the_figures_and_a_resumed_run_goes_on_with_its_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (tmp_path / "config.json").write_text('{"optim": {"lr": 0.125}}', encoding="utf-8")
    for done in (0, 2):
        with run_log(tmp_path, done=done, config=LogConfig(tensorboard=False, wandb="speech")) as log:
            log.write(done + 2, {"masked_accuracy": 0.5}, wall_s=3.0)
            log.alarm(done + 2, "low_rank", "collapsed")
    run_id = (tmp_path / "wandb_id").read_text(encoding="utf-8").strip()
    words = (b"masked_accuracy", b"wall_s", b"0.125")
    limit = time.monotonic() + 20
    while time.monotonic() < limit:  # wandb's own process writes a moment after its finish() has returned
        written = [path.read_bytes() for path in tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb")]
        if len(written) == 2 and all(word in text for word in words for text in written):
            return
        time.sleep(0.05)
    pytest.fail(f"not both parts of run {run_id} hold {words}")


def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    now = iter(range(1, 10_000, 25))
    monkeypatch.setattr("speechssl.train.runlog.time.monotonic", lambda: float(next(now)))
    with progress_bar("frames", 8) as (bar, task):
        for done in range(1, 9):
            bar.update(task, completed=done, note="3/s")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "frames 4/8  3/s  left 1.7 min"
    assert len(said) == 2


def test_reports_count_as_lines_that_say_how_far_a_run_is(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("speechssl.train.runlog.time.monotonic", lambda: clock[0])
    with run_log(tmp_path) as log:
        for step in range(1, 11):
            clock[0] += 40.0
            log.advance(step, "9 audio-s/s")
            if step == 2:
                log.write(2, {"loss": 0.5})
    said = [line for line in capsys.readouterr().err.splitlines() if "audio-s/s" in line]
    assert [line.split()[1] for line in said] == ["4/10", "6/10", "8/10", "10/10"]


def test_a_read_through_a_bar_is_told_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("speechssl.train.runlog.SAY_S", 0.0)
    with progress_bar("labels", 3) as (bar, task):
        assert list(bar.track([1, 2, 3], task_id=task)) == [1, 2, 3]
    assert "labels 3/3" in capsys.readouterr().err
