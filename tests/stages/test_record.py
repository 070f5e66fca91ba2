"""The run record: what is done is known, also after a kill in the middle of a line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.errors import CheckpointError
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.record import Inputs, RunRecord, content_hash, step_inputs

INPUTS = {"clusters": 5, "content of a.tsv": "0123"}


@pytest.fixture
def perform(tmp_path) -> Callable[..., list[str]]:
    """Give a function that performs step `one` with a fresh record, and returns what it did."""

    def run(values: dict = INPUTS, *, redo: bool = False, text: str = "made", defaults: tuple = ()) -> list[str]:
        did: list[str] = []

        def work() -> None:
            did.append("one")
            (tmp_path / "one").mkdir(exist_ok=True)
            (tmp_path / "one/result").write_text(text)

        record = RunRecord(tmp_path, redo=redo)
        inputs = Inputs(values=values, defaults=frozenset(defaults))
        outputs = record.perform("one", inputs, work, lambda: {"one/result": (tmp_path / "one/result").read_text()})
        assert outputs == {"one/result": (tmp_path / "one/result").read_text()}
        return did

    return run


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]


def test_a_step_is_done_once(perform, tmp_path):
    assert perform() == ["one"]
    written = (tmp_path / "record.jsonl").read_bytes()
    assert perform() == []
    assert (tmp_path / "record.jsonl").read_bytes() == written


@pytest.mark.parametrize("torn", [b'{"event": "finis', b'{"event": "finished", "step": "one"}', "{ü".encode()[:-1]])
def test_a_last_line_that_was_never_ended_does_not_count(perform, tmp_path, torn):
    perform()
    path = tmp_path / "record.jsonl"
    started = path.read_bytes().split(b"\n")[0] + b"\n"
    path.write_bytes(started + torn)
    assert perform() == ["one"]
    assert [line["event"] for line in lines(tmp_path)] == ["started", "started", "finished"]
    assert path.read_bytes().startswith(started)


def test_a_broken_line_before_the_end_is_named(perform, tmp_path):
    perform()
    path = tmp_path / "record.jsonl"
    path.write_text("[1]\n" + path.read_text())
    with pytest.raises(CheckpointError, match=r"record\.jsonl:1: expected a JSON line of a step, found .*\[1\]"):
        perform()


def test_other_inputs_stop_and_are_named_old_and_new(perform, tmp_path):
    perform()
    changed = {"clusters": 6, "content of a.tsv": "4567", "seed": 1, "layer": 2}
    message = (
        r"one: was made from other inputs \(clusters was 5, is 6, content of a.tsv was '0123', is '4567', seed was "
        r"not recorded, is 1, and 1 more\); name another out, or set redo=true"
    )
    with pytest.raises(CheckpointError, match=message):
        perform(changed)
    assert (tmp_path / "one/result").read_text() == "made"


def test_a_key_that_a_later_version_brings_is_no_change_at_its_default(perform):
    perform()
    assert perform({**INPUTS, "cmn": False}, defaults=("cmn", "clusters")) == []
    with pytest.raises(CheckpointError, match=r"\(cmn was not recorded, is True\)"):
        perform({**INPUTS, "cmn": True}, defaults=("clusters",))
    with pytest.raises(CheckpointError, match=r"\(clusters was 5, is 100\)"):  # a known key at its default is one
        perform({**INPUTS, "clusters": 100}, defaults=("clusters",))


def test_a_key_that_was_renamed_since_is_no_change(perform, tmp_path):
    perform({"dev.bad_audio": "stop", "dev": None})
    path = tmp_path / "record.jsonl"
    path.write_text(path.read_text().replace('"dev', '"valid'))
    assert perform({"dev.bad_audio": "stop", "dev": None}) == []


def test_redo_keeps_every_old_folder(perform, tmp_path):
    perform(text="first")
    assert perform({"clusters": 6}, redo=True, text="second") == ["one"]
    assert perform({"clusters": 7}, redo=True, text="third") == ["one"]
    assert [(tmp_path / name / "result").read_text() for name in ("one.old-1", "one.old-2", "one")] == [
        "first",
        "second",
        "third",
    ]
    moved = [line for line in lines(tmp_path) if line["event"] == "moved"]
    assert [line["to"] for line in moved] == ["one.old-1", "one.old-2"]
    assert "clusters was 6, is 7" in moved[1]["because"]


def test_a_folder_that_nobody_recorded_is_neither_used_nor_removed(perform, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/mine").write_text("")
    with pytest.raises(CheckpointError, match=r"one: is not in record\.jsonl"):
        perform()
    assert perform(redo=True) == ["one"]
    assert (tmp_path / "one.old-1/mine").exists()


def test_a_step_that_computed_nothing_is_done_with_other_inputs(perform, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.json").write_text('{"out": "one"}')
    started = {"event": "started", "step": "one", "hash": "", "inputs": INPUTS, "at": ""}
    (tmp_path / "record.jsonl").write_text(json.dumps(started) + "\n")
    assert perform({"clusters": 6}) == ["one"]
    assert [line["event"] for line in lines(tmp_path)] == ["started", "started", "finished"]


def test_a_kill_after_a_folder_was_moved_aside_is_no_reason_to_stop(perform, tmp_path):
    perform()
    (tmp_path / "one").rename(tmp_path / "one.old-1")  # killed before the record said so
    assert perform({"clusters": 6}) == ["one"]


def test_time_and_surroundings_of_a_step_are_kept(perform, tmp_path):
    perform()
    finished = lines(tmp_path)[-1]
    assert finished["seconds"] >= 0
    assert finished["threads"] == 1
    assert finished["started"] <= finished["finished"]
    assert RunRecord(tmp_path).seconds("one") == finished["seconds"]
    assert RunRecord(tmp_path).seconds("two") == 0


def test_a_folder_is_hashed_by_names_and_contents(tmp_path):
    def hash_of(**files: str) -> str:
        folder = tmp_path / "-".join([*files, *files.values()])
        for name, text in files.items():
            (folder / "inner").mkdir(parents=True, exist_ok=True)
            (folder / "inner" / name).write_text(text)
        return content_hash(folder)

    hashes = [hash_of(a="x", b="y"), hash_of(a="y", b="x"), hash_of(a="x"), hash_of(c="x")]
    assert len({*hashes}) == 4
    (tmp_path / "again/inner").mkdir(parents=True)
    (tmp_path / "again/inner/a").write_text("x")
    assert content_hash(tmp_path / "again") == hashes[2]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.tsv: cannot be read \(No such file or directory\)"):
        content_hash(tmp_path / "gone.tsv")


def test_inputs_are_the_keys_and_what_the_paths_hold(tmp_path, cluster_config, corpus):
    out = tmp_path / "run"
    data = DataConfig(manifests=(corpus,), root=corpus.parent)
    config = cluster_config(out / "2-units", data=data, features="layer", checkpoint=out / "1-pretrain")
    inputs = step_inputs(config, out, model="89ab").values
    assert inputs["model in 1-pretrain"] == "89ab"
    assert inputs["checkpoint"] == "1-pretrain"
    assert inputs[f"content of {corpus}"] == content_hash(corpus)
    assert inputs["data.audio.resample"] is True
    assert "out" not in inputs
    assert f"content of {corpus.parent}" not in inputs
    assert json.loads(json.dumps(inputs)) == inputs
    defaults = step_inputs(config, out, model="89ab").defaults
    assert {"standardise", "data.audio.resample", "phones"} <= defaults
    assert not {"clusters", "features", "data.root"} & defaults
