"""Stage hubert: iterations in one command, each step done once."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from speechssl.config import load, to_dict
from speechssl.data.labels import read_labels
from speechssl.data.manifest import read_manifest
from speechssl.errors import CheckpointError, ConfigError, LabelError, StoppedError, TrainingError
from speechssl.hub.saved import SavedModel
from speechssl.report.plot import plot_sweeps
from speechssl.stages import hubert_chain as stage
from speechssl.stages.hubert_chain import HubertConfig, choose_units, hubert
from speechssl.stages.hubert_recipe import resolve
from speechssl.stages.sweep_table import SweepRow, suggest
from speechssl.train.checkpoint import last_checkpoint
from speechssl.units.quality import UnitQuality

STEPS = ["1-units", "1-pretrain", "2-units", "2-pretrain"]
Make = Callable[..., HubertConfig]


@pytest.fixture(scope="session")
def phones(tmp_path_factory, corpus) -> Path:
    """Give an alignment of all utterances: a phone in the first 0.2 s, another in the rest."""
    path = tmp_path_factory.mktemp("phones") / "phones.tsv"
    rows = read_manifest(corpus).utterances
    path.write_text("id\tphones\n" + "".join(f"{row.id}\t0.2:a {row.duration_s}:b\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def recipe(corpus, tiny_encoder) -> Callable[..., dict]:
    """Give a function that makes the values of a recipe of two tiny iterations."""

    def make(**changes: object) -> dict:
        pretrain = {
            "encoder": to_dict(tiny_encoder),
            "objective": {"dim": 8, "mask": {"start_prob": 0.1, "span": 3}},
            "batch": {"seconds": 3.0, "max_crop_s": 0.6, "min_s": 0.1},
            "train": {"steps": 3, "log_every": 1},
        }
        iterations = [
            {"units": {"clusters": 5}},
            {"units": {"features": "layer", "layer": 2, "clusters": 4}, "pretrain": {"train": {"steps": 4}}},
        ]
        values = {"data": {"manifests": [str(corpus)]}, "units": {"iterations": 5}, "pretrain": pretrain}
        return values | {"iterations": iterations} | changes

    return make


@pytest.fixture
def make(recipe, tmp_path) -> Make:
    """Give a function that reads a recipe: its changes, then overrides of the command line."""

    def read(*overrides: str, **changes: object) -> HubertConfig:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"out": str(tmp_path / "run")} | recipe(**changes)), encoding="utf-8")
        return load(path, HubertConfig, overrides)

    return read


@pytest.fixture
def done(make) -> Path:
    """Give the folder of two finished iterations."""
    return hubert(make()).parent


@pytest.fixture
def second() -> Callable[..., list[dict]]:
    """Give a function that makes the two iterations with other keys of the second one's units."""

    def make(**units: object) -> list[dict]:
        changed = {"features": "layer", "layer": 2, "clusters": 4} | units
        return [{"units": {"clusters": 5}}, {"units": changed, "pretrain": {"train": {"steps": 4}}}]

    return make


@pytest.fixture
def performed(monkeypatch) -> list[str]:
    """Give a list that grows by the folder of each step that is really done."""
    names: list[str] = []
    for kind in ("cluster", "sweep", "pretrain"):
        run = getattr(stage, kind)

        def spy(config, run=run):
            names.append(config.out.name)
            return run(config)

        monkeypatch.setattr(stage, kind, spy)
    return names


def record_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "record.jsonl").read_text(encoding="utf-8").splitlines()]


def stamps(folder: Path) -> dict[Path, int]:
    """Return when each file was written, but for the one that says which process works here."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def test_each_iteration_predicts_units_of_the_model_before(make, performed):
    out = hubert(make()).parent
    assert performed == STEPS
    first, units = (read_labels(out / f"{n}-units/labels.tsv").source for n in (1, 2))
    assert (first.clusters, first.hop) == (5, 160)
    assert (units.clusters, units.hop, units.window) == (4, 320, 325)
    assert units.features == "1-pretrain/step_00000003 layer 2"
    assert [last_checkpoint(out / f"{n}-pretrain").name for n in (1, 2)] == ["step_00000003", "step_00000004"]
    assert SavedModel.read(out / "2-pretrain").description.clusters == (4,)


def test_the_record_says_what_each_step_read_made_and_ran_on(done):
    lines = record_of(done)
    assert [(line["event"], line["step"]) for line in lines] == [
        (event, step) for step in STEPS for event in ("started", "finished")
    ]
    finished = {line["step"]: line for line in lines if line["event"] == "finished"}
    assert set(finished["1-units"]["outputs"]) == {"1-units/labels.tsv", "1-units/kmeans.safetensors"}
    model = SavedModel.read(done / "1-pretrain").fingerprint()
    assert finished["1-pretrain"]["outputs"] == {"1-pretrain/step_00000003": model}
    assert finished["2-units"]["inputs"]["model in 1-pretrain"] == model
    labels = finished["2-units"]["outputs"]["2-units/labels.tsv"]
    assert finished["2-pretrain"]["inputs"]["content of 2-units/labels.tsv"] == labels
    assert finished["2-pretrain"]["inputs"]["train.steps"] == 4
    assert {"hash", "seconds", "started", "finished", "speechssl", "commit", "machine", "threads"} <= set(
        finished["2-pretrain"]
    )


def test_a_second_call_touches_no_file(done, make, performed, capsys):
    before = stamps(done)
    hubert(make())
    assert performed == []
    assert stamps(done) == before
    assert capsys.readouterr().err.count("unchanged, skipped") == 4


def test_a_finished_folder_may_be_moved(done, make, performed):
    done.rename(done.with_name("elsewhere"))
    hubert(make(f"out={done.with_name('elsewhere')}"))
    assert performed == []


def test_the_report_has_a_line_for_each_iteration(done, capsys, make):
    rows = [line.split(" | ") for line in (done / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert [row[1:3] for row in rows[1:]] == [["mfcc", "5"], ["layer 2 of iteration 1", "4"]]
    last = json.loads((done / "2-pretrain/log.jsonl").read_text().splitlines()[-1])
    cells = dict(zip(rows[0], rows[2], strict=True))
    assert cells["masked accuracy"] == f"{last['masked_accuracy']:.3f}"
    assert cells["PNMI"] == "-"
    hubert(make())
    assert (done / "report.md").read_text() in capsys.readouterr().out


def test_a_changed_key_of_the_second_iteration_stops_and_says_what_to_do(done, make, second, performed):
    before = stamps(done)
    with pytest.raises(CheckpointError, match=r"2-units: was made from other inputs \(clusters was 4, is 3\); name"):
        hubert(make(iterations=second(clusters=3)))
    with pytest.raises(CheckpointError, match="set redo=true"):
        hubert(make(iterations=second(clusters=3)))
    assert performed == []
    assert stamps(done) == before


def test_redo_does_the_changed_step_and_what_follows_and_keeps_the_old(done, make, second, performed):
    old = (done / "2-units/labels.tsv").read_bytes()
    hubert(make("redo=true", iterations=second(clusters=3)))
    assert performed == ["2-units", "2-pretrain"]
    assert (done / "2-units.old-1/labels.tsv").read_bytes() == old
    assert SavedModel.read(done / "2-pretrain.old-1").description.clusters == (4,)
    assert SavedModel.read(done / "2-pretrain").description.clusters == (3,)
    performed.clear()
    hubert(make(iterations=second(clusters=3)))
    assert performed == []
    hubert(make("redo=true", iterations=second(clusters=4)))
    assert (done / "2-units.old-2").exists()
    assert (done / "2-units/labels.tsv").read_bytes() == old


def test_redo_without_a_change_does_nothing(done, make, performed):
    before = stamps(done)
    hubert(make("redo=true"))
    assert performed == []
    assert stamps(done) == before


def test_one_more_iteration_leaves_the_others_as_they_are(done, make, second, performed):
    third = {"units": {"features": "layer", "layer": 1, "clusters": 3}, "start": "continue"}
    hubert(make(iterations=[*second(), third]))
    assert performed == ["3-units", "3-pretrain"]
    assert json.loads((done / "3-pretrain/config.json").read_text())["checkpoint"] == str(done / "2-pretrain")
    assert record_of(done)[-1]["inputs"]["model in 2-pretrain"] == SavedModel.read(done / "2-pretrain").fingerprint()


def test_another_content_of_a_manifest_is_noticed(make, make_corpus, tmp_path, performed):
    manifest = make_corpus(tmp_path / "own")
    changes = {"data": {"manifests": [str(manifest)]}}
    out = hubert(make(**changes)).parent
    old = record_of(out)[0]["inputs"][f"content of {manifest}"]
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    performed.clear()
    with pytest.raises(CheckpointError, match=rf"1-units: .*content of {manifest} was '{old}', is '[0-9a-f]{{16}}'"):
        hubert(make(**changes))
    hubert(make("redo=true", **changes))
    assert performed == STEPS
    assert len(read_labels(out / "2-units/labels.tsv").units) == 7


def test_a_step_with_the_same_outcome_leaves_what_follows_as_it_is(done, make, corpus, phones, performed):
    rows = read_manifest(corpus).utterances
    assert rows
    hubert(make("redo=true", f"phones={phones}", "sweep.clusters=[3]", "sweep.iterations=5"))
    assert performed == ["1-units", "2-sweep", "2-units"]  # measured now; the labels are the same
    assert "quality.json" in {path.name for path in (done / "1-units").iterdir()}


@pytest.mark.parametrize("lost", STEPS)
def test_a_run_killed_at_any_step_goes_on_there(make, performed, monkeypatch, lost, tmp_path):
    whole = hubert(make(f"out={tmp_path / 'whole'}")).parent
    performed.clear()
    config = make()
    kind = "cluster" if lost.endswith("units") else "pretrain"
    run = getattr(stage, kind)

    def killed(config):
        run(config)
        if config.out.name == lost:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, kind, killed)
        hubert(config)
    performed.clear()
    hubert(config)
    assert performed == STEPS[STEPS.index(lost) :]
    found, expected = (SavedModel.read(out / "2-pretrain").fingerprint() for out in (config.out, whole))
    assert found == expected


def test_inputs_that_change_while_a_step_is_interrupted_are_noticed(make, monkeypatch):
    def killed(config):
        (config.out / "parts").mkdir(parents=True)
        (config.out / "parts/000-00000.tsv").write_text("labels of some utterances")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "cluster", killed)
        hubert(make())
    with pytest.raises(CheckpointError, match=r"1-units: was made from other inputs \(seed was 0, is 1\)"):
        hubert(make("seed=1"))


def test_an_output_that_was_changed_is_not_used(done, make, performed):
    path = done / "1-units/labels.tsv"
    path.write_text(path.read_text().replace("u0000\t", "u0000\t0 ", 1))
    with pytest.raises(CheckpointError, match=r"1-units: has changed since it was made \(1-units/labels.tsv was"):
        hubert(make())
    assert performed == []


def test_an_output_that_is_gone_is_made_again_and_the_same(done, make, performed):
    path = done / "1-units/labels.tsv"
    old = path.read_bytes()
    path.unlink()
    hubert(make())
    assert performed == ["1-units"]
    assert path.read_bytes() == old


def test_held_out_speech_is_labelled_by_the_same_centroids_and_scored(make, make_corpus, tmp_path, performed):
    held_out = make_corpus(tmp_path / "held-out")
    held_out.write_text(held_out.read_text().replace("\nu000", "\nv000").replace("\tu000", "\tu000"))
    out = hubert(make(dev={"manifests": [str(held_out)]})).parent
    assert performed == ["1-units", "1-dev-units", "1-pretrain", "2-units", "2-dev-units", "2-pretrain"]
    trained, valid = (read_labels(out / name / "labels.tsv").source for name in ("2-units", "2-dev-units"))
    assert trained.kmeans == valid.kmeans
    scores = json.loads((out / "2-pretrain/log.jsonl").read_text().splitlines()[-1])
    assert f" {scores['dev_masked_accuracy']:.3f} |" in (out / "report.md").read_text().splitlines()[3]


def test_several_processes_train_and_are_part_of_what_a_model_is(make, second, monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    out = hubert(make("processes=2", iterations=second()[:1])).parent
    assert last_checkpoint(out / "1-pretrain").name == "step_00000003"
    assert record_of(out)[-1]["inputs"]["processes"] == 2
    with pytest.raises(CheckpointError, match=r"1-pretrain: was made from other inputs \(processes was 2, is 1\)"):
        hubert(make(iterations=second()[:1]))


def test_processes_that_were_stopped_are_not_taken_for_done(make, second, monkeypatch):
    def run(command: list[str], **rest: object) -> subprocess.CompletedProcess[bytes]:
        """End well without a finished run, as processes do that a signal stopped."""
        return subprocess.CompletedProcess(command, 0)

    config = make(iterations=second()[:1])
    monkeypatch.setattr(stage.subprocess, "run", run)
    (pretraining,) = [iteration.pretrain for iteration in resolve(config)]
    stopped = dataclasses.replace(pretraining, out=config.out / "stopped")
    with pytest.raises(
        StoppedError, match=r"stopped: pretraining was stopped after a checkpoint; the same command resumes"
    ):
        stage._launch("pretrain", stopped, 2)


def test_a_process_that_fails_is_reported(make, tmp_path, capfd):
    (tmp_path / "empty.tsv").write_text("id\tpath\tsamples\trate\tchannels\n")
    with pytest.raises(TrainingError, match=r"1-units: cluster in 2 processes ended with status 1; correct the errors"):
        hubert(make("processes=2", data={"manifests": [str(tmp_path / "empty.tsv")]}))
    assert f"speechssl: {tmp_path / 'empty.tsv'}" in capfd.readouterr().err


def test_layer_and_number_of_units_are_what_the_sweep_found_best(make, phones, second, performed):
    config = make(
        f"phones={phones}", "sweep.clusters=[3, 4]", "sweep.iterations=5", "sweep.tolerance=0",
        iterations=second(layer="auto", clusters="auto"),
    )  # fmt: skip
    out = hubert(config).parent
    plot_sweeps(out)  # as the command line does
    assert performed == ["1-units", "1-pretrain", "2-sweep", "2-units", "2-pretrain"]
    assert (out / "2-sweep/sweep.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "2-sweep/sweep.json").read_text())
    assert {row["clusters"] for row in found["rows"]} == {3, 4}
    best = max((row for row in found["rows"] if row["kind"] == "model"), key=lambda row: row["quality"]["pnmi"])
    used = json.loads((out / "2-units/config.json").read_text())
    assert (used["layer"], used["clusters"]) == (best["layer"], best["clusters"])
    assert found["suggestion"].startswith(f"Take layer {used['layer']} with {used['clusters']} units")
    assert f"| layer {best['layer']} of iteration 1 | {best['clusters']} | 0." in (out / "report.md").read_text()


def _row(kind: str, layer: int, clusters: int, pnmi: float) -> SweepRow:
    quality = UnitQuality(**dict.fromkeys((f.name for f in dataclasses.fields(UnitQuality)), 0) | {"pnmi": pnmi})
    source = {"baseline": "mfcc", "random": "random weights", "model": "run"}[kind]
    figures = {"dim": 1, "effective_rank": 1.0, "chance": 0.0, "quality": quality}
    return SweepRow(source=source, kind=kind, layer=layer, clusters=clusters, **figures)


ROWS = [_row("model", 1, 50, 0.50), _row("model", 1, 100, 0.595), _row("model", 2, 100, 0.59)]
ROWS += [_row("model", 1, 200, 0.60), _row("model", 3, 200, 0.61), _row("random", 2, 100, 0.9)]
ROWS += [_row("baseline", 0, 50, 0.3), _row("baseline", 0, 100, 0.8)]


@pytest.mark.parametrize(
    ("features", "auto", "expected"),
    [
        ("layer", ("layer", "clusters"), (1, 100)),
        ("layer", ("layer",), (3, 200)),  # with the 200 units asked for
        ("layer", ("clusters",), (1, 100)),  # of layer 1
        ("mfcc", ("clusters",), (1, 100)),
        ("layer", (), (1, 200)),
    ],
)
def test_the_choice_is_the_fewest_units_that_are_good_enough(tmp_path, features, auto, expected, cluster_config):
    units = cluster_config(tmp_path, features=features, checkpoint=tmp_path, layer=1, clusters=200)
    chosen = choose_units([dataclasses.asdict(row) for row in ROWS], units, auto, tolerance=0.02)
    assert (chosen.layer, chosen.clusters) == expected


@pytest.mark.parametrize("tolerance", [0.0, 0.005, 0.02, 0.2])
def test_the_choice_is_the_one_the_sweep_suggests(tmp_path, cluster_config, tolerance):
    units = cluster_config(tmp_path, features="layer", checkpoint=tmp_path)
    rows = [dataclasses.asdict(row) for row in ROWS]
    chosen = choose_units(rows, units, ("layer", "clusters"), tolerance=tolerance)
    words = suggest(ROWS, tolerance=tolerance)
    assert words.startswith(f"Take layer {chosen.layer} with {chosen.clusters} units")


def test_a_choice_among_nothing_is_refused(tmp_path, cluster_config):
    units = cluster_config(tmp_path, features="layer", checkpoint=tmp_path, clusters=70)
    with pytest.raises(LabelError, match=r"no row with \{'kind': 'model', 'clusters': 70\}; list it in sweep"):
        choose_units([dataclasses.asdict(row) for row in ROWS], units, ("layer",), tolerance=0.0)


def test_torchrun_does_not_start_it(make, monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="hubert starts processes itself; run it without torchrun, with processes=N"):
        hubert(make())
