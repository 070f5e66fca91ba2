"""Comparing runs: how logs are read and joined, the tables, the picture and the page."""

import dataclasses
import json
import math
import re

import pytest
from rich.console import Console

from speechssl.__main__ import main
from speechssl.config import to_dict
from speechssl.errors import CheckpointError
from speechssl.report.read_runs import differences, read_runs, shared_figures
from speechssl.report.runs_page import plot_runs, thinned, write_page
from speechssl.report.runs_table import console_tables, summarize
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig

DATA = DataConfig(manifests=("a.tsv",))


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder: its configuration, and the lines of its logs, objects or text as it stands."""

    def make(name, lines, *, alarms=None, config=None, **settings):
        out = tmp_path / name
        out.mkdir(parents=True)
        if config is None:
            config = to_dict(PretrainConfig(out=out, data=DATA, train=TrainConfig(steps=100), **settings))
        (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for file, rows in (("log.jsonl", lines), ("alarms.jsonl", alarms)):
            if rows is not None:
                text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
                (out / file).write_text(text, encoding="utf-8")
        return out

    return make


def report(step, loss, **figures):
    """A line as the loop writes it: a step takes 36 s and sees 0.5 h of audio."""
    return {"step": step, "wall_s": 36.0 * step, "loss": loss, "hours_seen": 0.5 * step} | figures


def cells(runs):
    columns, rows = summarize(runs)
    return [dict(zip(columns, (cell.text for cell in row), strict=True)) for row in rows]


def test_the_later_line_of_a_step_counts_and_lines_of_the_run_before_are_void(make_run):
    lines = [report(2, 1.0), report(4, 2.0, old=1.0), report(6, 3.0), report(4, 20.0)]
    (run,) = read_runs([make_run("a", lines)])
    assert run.figures["loss"] == {2: 1.0, 4: 20.0}, "step 6 was not reached again"
    assert "old" not in run.figures
    assert run.step == 4


def test_reports_and_evaluations_of_one_step_are_joined(make_run):
    lines = [report(2, 1.0), {"step": 2, "valid_loss": 5.0}, report(2, 3.0), report(4, 2.0)]
    (run,) = read_runs([make_run("a", lines)])
    assert run.figures["dev_loss"] == {2: 5.0}
    assert run.figures["loss"] == {2: 3.0, 4: 2.0}


def test_steps_between_reports_lie_between_them_on_every_axis(make_run):
    (run,) = read_runs([make_run("a", [report(100, 1.0), {"step": 150, "dev_loss": 2.0}, report(200, 1.0)])])
    assert run.axis("step", [50, 150]) == [50, 150]
    assert run.axis("hours_seen", [50, 150]) == [25, 75]
    assert run.axis("wall_h", [50, 150]) == [0.5, 1.5]


def test_wall_time_of_logs_without_it_comes_from_hours_and_rate(make_run):
    old = [{"step": s, "loss": 1.0, "hours_seen": s, "audio_s_per_s": 40.0, "skipped": 0} for s in (1, 2)]
    (run,) = read_runs([make_run("a", old)])
    assert run.figures["wall_s"] == {1: 90.0, 2: 180.0}
    assert cells([run])[0]["wall time"] == "0:03:00"
    assert cells([run])[0]["audio-s/s"] == "40.0"


def test_a_log_that_tells_no_time_has_no_such_axis_and_is_drawn_on_the_others(make_run, tmp_path):
    runs = read_runs([make_run("a", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]), make_run("b", [])])
    assert runs[0].axis("wall_h", [1]) is None
    assert cells(runs)[0]["steps"] == "2/100"
    write_page(runs, tmp_path / "page.html")


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "\0\0\0\0", '{"step": 4, "loss": 1.0, "x": "\udcff'])
def test_a_half_written_last_line_is_passed_over_and_said(make_run, torn, capsys):
    out = make_run("a", [report(2, 1.0)])
    with (out / "log.jsonl").open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    assert main(["runs", str(out)]) == 0
    printed = capsys.readouterr()
    assert "log.jsonl: line 2 is incomplete and skipped" in printed.err
    assert "2/100" in printed.out


def test_a_run_that_has_not_reported_yet_is_listed(make_run):
    assert cells(read_runs([make_run("a", [])]))[0]["steps"] == "0/100"


def test_missing_and_broken_folders_are_one_error_each(make_run, tmp_path):
    good = make_run("good", [report(1, 1.0)])
    make_run("deep/seed0/pretrain", [])
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "nowhere": r"nowhere: no such folder",
        tmp_path / "empty": r"empty: holds no run, because it has no config\.json; name folders of runs",
        tmp_path: r"has no config\.json; there are runs below it: foreign, good, noise",
        make_run("silent", None): r"silent/log\.jsonl: cannot be read \(No such file",
        make_run("noise", ["abc\n", "def\n"]): r"noise/log\.jsonl: none of its 2 lines is JSON",
        make_run("foreign", [report(1, 1.0), {"message": "x"}]): r'foreign/log\.jsonl: line 2: expected .* "step"',
        make_run("units", [], config={"clusters": 5}): r"units: its config\.json is of no training run",
        tmp_path / "deep": r"there are runs below it: seed0/pretrain",
    }
    for folder, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            read_runs([good, folder])
    with pytest.raises(CheckpointError, match="is given twice"):
        read_runs([good, tmp_path / "good"])


def test_the_command_tells_a_missing_folder_in_one_line(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == f"speechssl: {tmp_path / 'x'}: no such folder; name folders of runs\n"


def test_a_checkpoint_stands_for_its_run(make_run):
    out = make_run("a", [report(1, 1.0)])
    (out / "step_00000001").mkdir()
    assert read_runs([out / "step_00000001"])[0].folder == out


def test_runs_are_named_by_what_tells_them_apart(make_run):
    a, b = make_run("x/one/pretrain", [report(1, 1.0)]), make_run("x/two/pretrain", [report(1, 1.0)])
    assert [run.name for run in read_runs([a, b])] == ["one", "two"]
    assert [run.name for run in read_runs([a])] == ["one/pretrain"]
    inner = make_run("x/one/pretrain/again", [report(1, 1.0)])
    assert [run.name for run in read_runs([a, inner])] == ["pretrain", "again"]


def test_the_table_shows_each_method_by_its_own_figures(make_run, tmp_path):
    hubert = make_run("h", [report(10, 2.0, masked_accuracy=0.25)], alarms=[{"step": 9, "name": "n", "message": "m"}])
    wav2vec2 = make_run("w", [report(10, 3.0, accuracy=0.5, code_perplexity=88.0)], objective=ContrastiveConfig())
    config = to_dict(FinetuneConfig(out=tmp_path, checkpoint=hubert, data=DATA, train=TrainConfig(steps=20)))
    lines = [report(10, 1.0), {"step": 10, "dev_cer": 0.125}, report(20, 0.5), {"step": 20, "dev_cer": 0.5}]
    first, second, third = cells(read_runs([hubert, wav2vec2, make_run("c", lines, config=config)]))
    assert (first["method"], first["accuracy"], first["perplexity"], first["alarms"]) == ("hubert", "0.25", "", "1")
    assert (second["method"], second["accuracy"], second["perplexity"]) == ("wav2vec2", "0.5", "88")
    assert (third["method"], third["steps"], third["loss"], third["best dev CER"]) == (
        "ctc",
        "20/20",
        "0.5",
        "12.5%",
    )
    assert (third["hours seen"], third["wall time"]) == ("10.00", "0:12:00")
    assert third["audio-s/s"] == "50.0"
    assert "dev loss" not in first, "no run has it"


@pytest.mark.parametrize("width", [60, 200])
def test_no_name_and_no_figure_is_cut_on_a_narrow_console(make_run, width, capsys):
    runs = read_runs([make_run(name, [report(4, 0.03125, masked_accuracy=0.125)]) for name in ("one", "two")])
    console = Console(width=width)
    for table in console_tables(runs, console):
        console.print(table)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("one", "two", "hubert", "4/100", "0.03125", "0.125", "0:02:24", "alarms"))
    assert len(printed.splitlines()) == (3 if width == 200 else 9)


def test_only_keys_that_differ_are_listed(make_run):
    a = make_run("a", [], optim=OptimConfig(lr=0.001))
    b = make_run("b", [], optim=OptimConfig(lr=0.002), seed=3)
    assert differences(read_runs([a, b])) == {"optim.lr": ["0.001", "0.002"], "seed": ["0", "3"]}
    assert differences(read_runs([a])) == {}


def test_keys_that_came_later_have_their_defaults_in_older_runs(make_run):
    before = to_dict(PretrainConfig(out="x", data=DATA, train=TrainConfig(steps=100)))
    del before["optim"]["max_grad_norm"]
    gone = before | {"seed": 0, "a_key_that_is_gone": 1}
    runs = read_runs([make_run("old", [], config=before), make_run("new", []), make_run("gone", [], config=gone)])
    assert differences(runs[:2]) == {}
    assert runs[2].config["a_key_that_is_gone"] == 1


def test_what_only_one_method_has_is_no_difference_but_a_section_left_out_is(make_run):
    runs = read_runs([make_run("a", []), make_run("b", [], objective=ContrastiveConfig())])
    found = differences(runs)
    assert found["objective.kind"] == ["masked_prediction", "contrastive"]
    assert not any(key.startswith("objective.quantizer") for key in found)
    runs = [dataclasses.replace(runs[0], config=config) for config in ({"mask": None}, {"mask.span": 10})]
    assert differences(runs) == {"mask": ["null", "given"]}


def test_figures_of_two_runs_are_shared_those_of_one_alone_are_not(make_run):
    a, b = make_run("a", [report(1, 1.0, x=1.0, y=1.0)]), make_run("b", [report(1, 1.0, y=2.0)])
    assert shared_figures(read_runs([a, b])) == ["loss", "y"]
    assert shared_figures(read_runs([a])) == ["loss", "x", "y"]


def _height(path):
    return int.from_bytes(path.read_bytes()[20:24], "big")


def test_the_picture_has_a_row_for_each_shared_figure_that_changes(make_run, tmp_path):
    lines = [[report(step, loss / step, x=step, constant=0.0) for step in (1, 2)] for loss in (1.0, 3.0)]
    a, b = make_run("a", lines[0], alarms=[{"step": 2, "name": "n", "message": "m"}]), make_run("b", lines[1])
    plot_runs(read_runs([a, b]), tmp_path / "new/two.png")
    plot_runs(read_runs([a, make_run("c", [report(1, 5.0)])]), tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert _height(tmp_path / "new/two.png") - _height(tmp_path / "one.png") == pytest.approx(2.4 * 80, abs=2)


def test_runs_without_a_shared_figure_are_not_drawn(make_run, tmp_path):
    with pytest.raises(CheckpointError, match="share no metric yet"):
        plot_runs(read_runs([make_run("a", [report(1, 1.0)]), make_run("b", [])]), tmp_path / "x.png")


def _page_data(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return text, json.loads(found)


def test_the_page_holds_everything_and_asks_for_nothing(make_run, tmp_path):
    alarm = {"step": 3, "name": "low_rank", "message": "<b>&</script><script>alert(1)</script>"}
    a = make_run("a", [report(2, math.nan), report(4, 0.1234567891)], alarms=[alarm], seed=1)
    b = make_run("b", [report(2, 1.0, only=7.0), '{"step": 4, "lo'], seed=2)
    write_page(read_runs([a, b]), tmp_path / "new/page.html")
    text, data = _page_data(tmp_path / "new/page.html")
    first, second = data["runs"]
    assert first["axes"] == {"step": [2, 3, 4], "hours_seen": [1.0, 1.5, 2.0], "wall_h": [0.02, 0.03, 0.04]}
    assert first["curves"]["loss"] == [[0, 2], [None, 0.1234568]]
    assert first["alarms"] == [[1, 3, "low_rank", alarm["message"]]]
    assert data["figures"]["shared"] == ["loss"]
    assert "only" in data["figures"]["of one run, or progress"]
    assert data["settings"] == {"seed": ["1", "2"]}
    assert (data["columns"][-1], first["cells"][-1], second["cells"][-1]) == ("seed", ["1", 1.0], ["2", 2.0])
    assert "line 2 is incomplete" in data["notes"][0]
    assert "<script>alert" not in text
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\S*", re.sub(r"(?m)// .*$", "", text)))
    assert {address.split('"')[0] for address in addresses} == {"http://www.w3.org/2000/svg"}, "a name, not fetched"
    assert not re.search(r"\b(src|href)=|@import|url\(", text)


def test_a_thinned_curve_keeps_ends_extremes_and_gaps():
    values = [math.sin(i / 50) for i in range(5000)]
    values[1234], values[2345], values[3456] = 9.0, -9.0, math.nan
    kept = thinned(values, 400)
    assert len(kept) <= 402
    assert {0, 1234, 2345, 3456, 4999} <= {*kept}
    assert kept == sorted(set(kept))


def test_the_command_prints_the_tables_and_writes_both_files(make_run, tmp_path, capsys):
    a, b = make_run("a", [report(1, 1.0)]), make_run("b", [report(1, 2.0)], seed=7)
    page, png = tmp_path / "runs.html", tmp_path / "runs.png"
    assert main(["runs", str(a), str(b), "--out", str(page), "--png", str(png)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["b", "hubert", "1/100", "2", "0.50", "0:00:36", "50.0", "0"] in printed
    assert ["seed", "0", "7"] in printed
    assert page.exists() and png.exists()


def test_device_cores_and_device_hours_are_those_of_the_newest_checkpoint(make_run):
    run = make_run("a", [report(2, 1.0)])
    assert "device-hours" not in cells(read_runs([run]))[0]
    machines = [
        {"device": "cpu", "devices": 1, "cores": 2, "wall_seconds": 1800.0},
        {"device": "NVIDIA H200", "devices": 8, "cores": 64, "wall_seconds": 900.0},
    ]
    (run / "step_00000002").mkdir()
    (run / "step_00000002/state.json").write_text(json.dumps({"step": 2, "machines": machines}))
    (row,) = cells(read_runs([run]))
    assert (row["device"], row["cores"], row["device-hours"]) == ("1 x cpu, 8 x NVIDIA H200", "2, 64", "2.50")
