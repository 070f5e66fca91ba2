"""Whoever does the work, the result is the same: parts of a job array, threads, a Ray cluster."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.audio.reading import AudioHeader
from speechssl.corpus import workers as engine
from speechssl.corpus.building import build
from speechssl.corpus.tar_shards import Recording, Shard
from speechssl.corpus.workers import (
    PartWritten,
    chosen_work,
    in_threads,
    one_by_one,
    parts_beside,
    read_line,
    remove_parts,
    write_line,
)
from speechssl.errors import AudioError, ManifestError

KINDS = {kind.__name__: kind for kind in (AudioHeader, AudioError, Shard, Recording)}
TASKS = [f"task {number}" for number in range(23)]


def twice(task: str) -> str:
    return f"{task} {task}"


def run(shard: str | None, folder: Path, *, tasks=TASKS, about="", kinds=KINDS):
    work = chosen_work(in_threads(2), one_by_one, "local", shard, folder, about=about, kinds=kinds)
    return list(work(tasks, twice))


def array(folder: Path, of: int, **more) -> None:
    for number in range(1, of + 1):
        with pytest.raises(PartWritten, match=rf"{number}-of-{of}\.jsonl: \d+ of \d+ done; when all {of} are"):
            run(f"{number}/{of}", folder, **more)


@pytest.mark.parametrize("of", [1, 4, 30])
def test_parts_make_the_whole(tmp_path, of):
    array(tmp_path / "parts", of)
    assert sorted(run("merge", tmp_path / "parts")) == sorted(run(None, tmp_path)) == [*enumerate(map(twice, TASKS))]
    remove_parts(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_other_files_beside_the_parts_stay(tmp_path):
    array(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("mine")
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_threads_take_more_tasks_than_are_handed_out_at_once(monkeypatch):
    monkeypatch.setattr(engine, "_WINDOW", 8)
    assert [*in_threads(2)(range(50), lambda task: -task)] == [(i, -i) for i in range(50)]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "1/3/5", "-1/3", ""])
def test_a_shard_that_is_none_is_refused(tmp_path, shard):
    with pytest.raises(ManifestError, match=r"shard: expected I/N with I from 1 to N, as 2/8, or merge; found"):
        run(shard, tmp_path)


def test_missing_parts_are_named(tmp_path):
    array(tmp_path, 4)
    (tmp_path / "2-of-4.jsonl").unlink()
    (tmp_path / "4-of-4.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"missing 2/4, 4/4; run those jobs again"):
        run("merge", tmp_path)
    with pytest.raises(ManifestError, match=r"expected the shards of one job array, found none"):
        run("merge", tmp_path / "nowhere")


def test_doubled_parts_are_named(tmp_path):
    array(tmp_path, 3)
    (tmp_path / "copy-of-3.jsonl").write_bytes((tmp_path / "2-of-3.jsonl").read_bytes())
    with pytest.raises(ManifestError, match=r": doubled 2/3; run those"):
        run("merge", tmp_path)


def test_parts_of_two_arrays_are_refused(tmp_path):
    array(tmp_path, 3)
    array(tmp_path, 2)
    with pytest.raises(ManifestError, match=r"found of 2 and of 3 jobs"):
        run("merge", tmp_path)


@pytest.mark.parametrize("change", [{"tasks": [*TASKS[:-1], "new"]}, {"about": "min_s=3"}])
def test_parts_of_other_files_or_settings_are_refused(tmp_path, change):
    array(tmp_path, 3)
    with pytest.raises(ManifestError, match=r"3 shards were made from other files or settings: 1-of-3\.jsonl, 2-of-3"):
        list(run("merge", tmp_path, **change))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0], *lines[:0:-1]],
        lambda lines: [*lines[:-1], lines[-1][:-4]],
        lambda lines: [*lines[:-1], '{"class": "Path", "fields": {}}'],
    ],
)
def test_damaged_parts_are_refused(tmp_path, spoil):
    array(tmp_path, 2)
    path = tmp_path / "1-of-2.jsonl"
    path.write_text("\n".join(spoil(path.read_text().splitlines())) + "\n")
    with pytest.raises(ManifestError, match=r"1-of-2\.jsonl: results are damaged \(.*\); run its job again"):
        run("merge", tmp_path)


@dataclass(frozen=True)
class Figures:
    name: str
    value: float | None
    bits: bytes = b""
    parts: tuple[object, ...] = ()


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.builds(Figures, st.text(), st.floats(allow_nan=False), st.binary(), st.lists(inner).map(tuple))
        | st.dictionaries(st.text(), st.integers(1, 9)).map(Counter)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(value=values)
def test_lines_hold_what_results_are_made_of(value):
    line = write_line(value)
    again = read_line(line, {"Figures": Figures})
    assert (again, type(again)) == (value, type(value))
    assert "\n" not in line


def test_lines_hold_errors_and_nothing_unknown():
    error = read_line(write_line(AudioError("a.wav: broken")), KINDS)
    assert (type(error), str(error)) == (AudioError, "a.wav: broken")
    with pytest.raises(ValueError, match="no line holds dict"):
        write_line({"a": 1})
    with pytest.raises(ValueError, match="no kind is called Figures"):
        read_line(write_line(Figures("a", 1.0)), KINDS)


@pytest.fixture
def speech(tmp_path, write_wav):
    for number in range(7):
        write_wav(tmp_path / f"speech/{number % 2}/{number}.wav", 8_000 + number, seed=number)
    (tmp_path / "speech/1/broken.wav").write_bytes(b"RIFF")
    return tmp_path / "speech"


def test_a_build_by_a_job_array_is_the_build_of_one_job(speech, tmp_path):
    folder = parts_beside(tmp_path / "m.tsv")

    def built(shard: str | None):
        work = chosen_work(in_threads(2), one_by_one, "local", shard, folder, about="build", kinds=KINDS)
        return build([str(speech)], skip_bad=True, work=work)

    for number in (1, 2, 3):
        with pytest.raises(PartWritten):
            built(f"{number}/3")
    whole, merged = build([str(speech)], skip_bad=True), built("merge")
    assert merged.manifest == whole.manifest
    assert [str(error) for error in merged.errors] == [str(error) for error in whole.errors]
    assert len(whole.errors) == 1
    assert built(None).manifest == whole.manifest


RAY = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
import ray
from pathlib import Path
from speechssl.errors import AudioError
from speechssl.corpus.workers import one_by_one
from speechssl.corpus.workers import on_ray

folder = Path(sys.argv[1])

def do(task):
    try:
        (folder / f"{task}.killed").touch(exist_ok=task != 21)
    except FileExistsError:
        return task * 2, os.getpid()
    if task == 21:
        os.kill(os.getpid(), signal.SIGKILL)
    return task * 2, os.getpid()

def fail(task):
    raise AudioError(f"{task}: broken")

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
results = sorted(on_ray(one_by_one, lot=4)(range(40), do))
try:
    list(on_ray(one_by_one)(range(3), fail))
    said = ""
except AudioError as error:
    said = str(error)
print(json.dumps([results, said]))
"""


@pytest.mark.slow
def test_ray_does_the_work_though_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray", reason="the extra `ray`")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RAY, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results, said = json.loads(done.stdout.splitlines()[-1])
    assert [(index, value) for index, (value, _) in results] == [(i, 2 * i) for i in range(40)]
    assert len({process for _, (_, process) in results}) >= 2
    assert (tmp_path / "21.killed").exists()
    assert said == "0: broken"
