"""The table of a recipe says what its stages measured."""

import json
import shutil

import pytest

from speechssl.errors import CheckpointError
from speechssl.report.run_report import report_run


@pytest.fixture
def run(tmp_path):
    for name, cer, lr in (("pretrained", 0.3, 0.001), ("scratch", 0.6, 0.002)):
        folder = tmp_path / name
        (folder / "step_00000010").mkdir(parents=True)
        state = {"step": 10, "best_step": 5, "best_score": cer / 2, "wall_seconds": 90.0, "audio_seconds": 7200.0}
        (folder / "step_00000010" / "state.json").write_text(json.dumps(state))
        (folder / "config.json").write_text(json.dumps({"optim": {"lr": lr}}))
        (folder / "test.json").write_text(json.dumps({"cer": cer, "wer": 0.9}))
    return tmp_path


def test_each_recogniser_has_a_row_of_what_was_measured(run):
    table = report_run(run)
    assert "| pretrained | 30.0 % | 90.0 % | 15.0 % | 5 | 0.001 | 90 s | 2.00 h |" in table
    assert "| scratch | 60.0 % | 90.0 % | 30.0 % | 5 | 0.002 | 90 s | 2.00 h |" in table


def test_the_change_is_relative_to_the_control(run):
    assert "Pretraining changes test CER by -50.0 % relative to scratch" in report_run(run)


def test_of_several_controls_the_best_on_dev_counts_not_the_best_on_test(run):
    shutil.copytree(run / "scratch", run / "scratch-slow")
    state = run / "scratch-slow" / "step_00000010" / "state.json"
    state.write_text(state.read_text().replace('"best_score": 0.3', '"best_score": 0.29'))
    (run / "scratch-slow" / "test.json").write_text(json.dumps({"cer": 0.75, "wer": 0.9}))
    assert "by -60.0 % relative to scratch-slow, the best control on dev" in report_run(run)


def test_pairs_of_several_corpora_are_compared_each(run):
    for name in ("pretrained", "scratch"):
        (run / name).rename(run / f"dutch-{name}")
    assert "changes test CER on dutch by -50.0 % relative to dutch-scratch" in report_run(run)


def test_units_are_listed_where_they_were_measured(run):
    (run / "units-mfcc").mkdir()
    quality = {"pnmi": 0.4831, "phone_purity": 0.4, "cluster_purity": 0.2, "used": 99, "frames": 5}
    (run / "units-mfcc" / "quality.json").write_text(json.dumps(quality))
    assert "| units-mfcc | 0.483 | 0.400 | 0.200 | 99 |" in report_run(run)


def write_pretraining(folder, log, *, steps=900, **config):
    """Write what a pretraining run leaves for the report."""
    (folder / "step_00000900").mkdir(parents=True)
    state = {"step": steps, "wall_seconds": 100.0, "audio_seconds": 7200.0}
    (folder / "step_00000900" / "state.json").write_text(json.dumps(state))
    (folder / "config.json").write_text(json.dumps({"objective": {"kind": "masked_prediction"}} | config))
    (folder / "log.jsonl").write_text(log)


def test_a_figure_that_was_not_finite_at_last_is_left_out(run):
    write_pretraining(run / "pretrain", '{"step": 900, "masked_accuracy": null, "unmasked_accuracy": 0.5}\n', steps=900)
    assert "; unmasked_accuracy 0.5." in report_run(run)


def test_every_iteration_of_pretraining_has_a_line(run):
    for name, steps in (("pretrain", 900), ("pretrain2", 300)):
        write_pretraining(
            run / name, '{"step": 900, "masked_accuracy": 0.1}\n{"step": 900, "masked_accuracy": 0.25}\n', steps=steps
        )
    table = report_run(run)
    assert "pretrain (masked_prediction): 900 steps, 2.0 h of audio seen, 100 s, 72 audio-seconds a second" in table
    assert "pretrain2 (masked_prediction): 300 steps" in table and "masked_accuracy 0.25" in table
    assert "pretrained (" not in table


def test_streams_and_held_out_figures_are_named(run):
    log = '{"step": 900, "masked_accuracy_1": 0.2}\n{"step": 900, "dev_masked_accuracy_0": 0.3}\n'
    write_pretraining(run / "pretrain", log, labels=["a", "b"])
    assert "; masked_accuracy_1 0.2, dev_masked_accuracy_0 0.3." in report_run(run)


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no \*/test\.json; let the recipe finish"):
        report_run(tmp_path)
