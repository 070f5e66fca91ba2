"""Manifests in Parquet: what the text form holds, and the same refusals."""

import dataclasses
import itertools
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from speechssl.data import manifest_parquet, utterances
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Ids, Joined, Manifest, Rows, Utterance
from speechssl.errors import ManifestError

pa = pytest.importorskip("pyarrow", reason="the extra `parquet`")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = (
    Utterance(id="a", path="x/ä b.wav", num_samples=16_001, sample_rate=16_000, channels=1, text="fünf six"),
    Utterance(
        id="b", path="long.flac", num_samples=44_101, sample_rate=44_100, channels=2, start=9, file_samples=50_000
    ),
    Utterance(id="c", path="0.tar:512:9", num_samples=7, sample_rate=8_000, channels=1, speaker="s", language="cs"),
    Utterance(id="d", path="s3://x/d", num_samples=10**15, sample_rate=8_000, channels=1, split="train"),
)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(manifest_parquet, "_GROUP", 3)
    monkeypatch.setattr(manifest_parquet, "_BLOCK", 7)
    monkeypatch.setattr(utterances, "_BLOCK", 5)


@pytest.fixture
def many(tmp_path, make_utterances, small_blocks):
    """Give 40 utterances in memory, and the same in a file of several groups of rows."""
    listed = make_utterances(np.random.default_rng(0).integers(8_000, 200_000, 40).tolist(), rate=22_050)
    listed = [dataclasses.replace(row, language=("ru", "nl", None)[i % 3]) for i, row in enumerate(listed)]
    write_manifest(tmp_path / "many.parquet", listed)
    return tuple(listed), read_manifest(tmp_path / "many.parquet").utterances


def write(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def columns_of(**changed):
    return {
        "id": ["a", "b"],
        "path": ["a.wav", "b.wav"],
        "samples": [10, 20],
        "rate": [16_000, 16_000],
        "channels": [1, 1],
    } | changed


def test_both_forms_hold_the_same(tmp_path):
    write_manifest(tmp_path / "m.tsv", ROWS)
    write_manifest(tmp_path / "m.parquet", read_manifest(tmp_path / "m.tsv").utterances)
    read = read_manifest(tmp_path / "m.parquet", root=tmp_path / "audio")
    assert (tuple(read.utterances), read.root) == (ROWS, tmp_path / "audio")
    write_manifest(tmp_path / "again.tsv", read.utterances)
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "m.tsv").read_bytes()
    assert [*tmp_path.glob(".*")] == []


def test_rows_are_looked_at_as_in_a_tuple(many):
    listed, found = many
    assert isinstance(found, Rows)
    assert len(found) == len(listed)
    assert [found[i] for i in (39, 0, 7, -1, -40)] == [listed[i] for i in (39, 0, 7, -1, -40)]
    assert (*found,) == listed == tuple(found[i] for i in range(40))
    assert tuple(found[5:30:3]) == listed[5:30:3]
    assert tuple(found[::-1][:4]) == listed[::-1][:4]
    for index in (40, -41):
        with pytest.raises(IndexError):
            found[index]


def test_columns_are_those_of_the_rows(many):
    listed, found = many
    wanted = np.arange(40) % 4 == 0
    for ours, theirs in ((found, listed), (found[3:20], listed[3:20])):
        columns = [Rows.of(ours), Rows.of(theirs)]
        lengths = [row.num_samples_16k for row in theirs]
        assert [each.lengths_16k.tolist() for each in columns] == [lengths, lengths]
        for each, name in itertools.product(columns, ("id", "path", "language", "corpus")):
            assert np.concatenate([*each.column(name)]).tolist() == [getattr(row, name) for row in theirs]
        is_wanted = wanted[: len(theirs)]
        ids = Ids(ours, np.flatnonzero(is_wanted))
        assert ids == [row.id for row in theirs[::4]] == [*ids]
        assert (len(ids), ids[-1], ids[:2]) == (len(theirs[::4]), theirs[::4][-1].id, [row.id for row in theirs[:8:4]])
        assert ids != [*ids, "more"]
        lines = "".join(f"{row.id}\t{row.num_samples_16k}\n" for row in theirs[::4]).encode()
        for each in columns:
            assert b"".join(each.list_lengths(each.lengths_16k, is_wanted)) == lines
    manifests = [Manifest(root=None, utterances=each) for each in (found, listed)]
    assert manifests[0].duration_s == pytest.approx(manifests[1].duration_s)


def test_batches_are_those_of_the_text_form(many):
    listed, found = many
    config = BatchConfig(seconds=20.0, max_crop_s=5.0, min_s=2.0)
    ours, theirs = (BatchSampler(each, config, seed=0) for each in (found, listed))
    assert (ours.fingerprint, ours.left_out, ours.epoch(1)) == (theirs.fingerprint, theirs.left_out, theirs.epoch(1))
    assert len(theirs.left_out) > 3


def test_rows_travel_to_another_process(many):
    listed, found = many
    assert pickle.loads(pickle.dumps(found))[17] == listed[17]
    assert pickle.loads(pickle.dumps(found[3:]))[17] == listed[20]


def test_joined_manifests_know_where_their_rows_come_from(many, tmp_path):
    listed, found = many
    other = tuple(dataclasses.replace(row, id=f"x-{row.id}") for row in listed[:3])
    joined = Joined([Manifest(root=tmp_path / "a", utterances=found), Manifest(root=tmp_path, utterances=other)], "ab")
    expected = [
        dataclasses.replace(row, path=str(folder.resolve() / row.path), corpus=corpus)
        for part, folder, corpus in ((listed, tmp_path / "a", "a"), (other, tmp_path, "b"))
        for row in part
    ]
    assert [*joined] == expected
    assert joined[-1] == expected[-1]
    assert np.concatenate([*joined.column("corpus")]).tolist() == ["a"] * 40 + ["b"] * 3
    assert joined.lengths_16k.tolist() == [row.num_samples_16k for row in expected]
    assert joined.duration_s == pytest.approx(sum(row.duration_s for row in expected))
    with pytest.raises(ManifestError, match=r"a, b: the id 'u0000' belongs to .*u0000.wav and to .*u0000.wav; rename"):
        Joined([Manifest(root=tmp_path, utterances=each) for each in (found, listed)], "ab")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id": ["a", "a"]}, r"the id 'a' belongs to a.wav and to b.wav; rename one"),
        ({"id": ["a", ""]}, r"b.wav has the id ''; name it"),
        ({"id": ["a", None]}, r"id is missing in some rows"),
        ({"path": ["a.wav", "b\t.wav"]}, r"path: row 2 has a tab or line break: 'b\\t.wav'"),
        ({"text": ["\n", None]}, r"text: row 1 has a tab or line break"),
        ({"text": [b"\xff", b"x"]}, r"text holds binary, expected text in UTF-8"),
        ({"samples": [10, 0]}, r"row 2 has {'samples': 0, .*expected positive whole numbers"),
        ({"samples": [10, None]}, r"row 2 has {'samples': -1"),
        ({"rate": [16_000, -1]}, r"row 2 has {.*'rate': -1"),
        ({"channels": [0, 1]}, r"row 1 has {.*'channels': 0"),
        ({"samples": ["ten", "20"]}, r"samples holds string, expected whole numbers"),
        ({"samples": [10.5, 20]}, r"samples holds double, expected whole numbers"),
        ({"start": [0, 1]}, r"has only one of the columns start and file_samples; write both"),
        ({"start": [0, None], "file_samples": [10, 30]}, r"row 2 has .*lies within its file"),
        ({"start": [0, 11], "file_samples": [10, 30]}, r"row 2 has .*lies within its file"),
        ({"codec": ["x", "y"]}, r"expected the columns id path .*found .*codec"),
    ],
)
def test_what_the_text_form_refuses_is_refused(tmp_path, small_blocks, changed, message):
    path = write(tmp_path / "m.parquet", columns_of(**changed))
    with pytest.raises(ManifestError, match=rf"^{re.escape(str(path))}: (?s:.*){message}"):
        read_manifest(path)


def test_columns_may_be_of_other_kinds(tmp_path):
    small = pa.array([10, 20], pa.uint16())
    texts = pa.array(["x", "x"]).dictionary_encode()
    path = write(
        tmp_path / "m.parquet", columns_of(samples=small, text=texts, id=pa.array(["a", "b"], pa.large_string()))
    )
    assert [(row.id, row.num_samples, row.text) for row in read_manifest(path).utterances] == [
        ("a", 10, "x"),
        ("b", 20, "x"),
    ]


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"no\.parquet: cannot read the manifest"):
        read_manifest(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("id\tpath\n")
    with pytest.raises(ManifestError, match=r"text\.parquet: not a Parquet file"):
        read_manifest(tmp_path / "text.parquet")
    with pytest.raises(ManifestError, match=r"empty\.parquet: lists no utterances"):
        read_manifest(
            write(tmp_path / "empty.parquet", {k: pa.array([], pa.array(v).type) for k, v in columns_of().items()})
        )


@pytest.mark.parametrize("name", ["a\tb.wav", "a\nb", "\udcff"])
def test_names_that_cannot_be_written_leave_the_old_manifest(tmp_path, name):
    write_manifest(tmp_path / "m.parquet", ROWS)
    before = (tmp_path / "m.parquet").read_bytes()
    with pytest.raises(ManifestError, match=r"m\.parquet: "):
        write_manifest(tmp_path / "m.parquet", [dataclasses.replace(ROWS[0], path=name)])
    assert (tmp_path / "m.parquet").read_bytes() == before
    assert [*tmp_path.glob(".*")] == []


def test_the_extra_is_named_where_it_is_missing(tmp_path):
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom pathlib import Path\n"
        "from speechssl.data.manifest import read_manifest\nread_manifest(Path('m.parquet'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ManifestError: a manifest in Parquet needs pyarrow: pip install 'speechssl[parquet]'" in done.stderr
