"""Parts of recordings: there and back sample for sample, read alike by the real readers, refused where nothing fits."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechssl.audio.reading import AudioConfig, read_header
from speechssl.corpus import entries
from speechssl.corpus.entries import recording_ids, seconds_of
from speechssl.corpus.filter import Wanted, choose
from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.corpus.merge import merge
from speechssl.corpus.sample import sample
from speechssl.corpus.split import split_by_shares
from speechssl.data.dataset import read_utterance
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

TARGETS = {"kaldi": "out", "nemo": "out/n.json", "lhotse": "out", "table": "out/t.csv"}


@pytest.fixture
def parts(tmp_path, write_wav) -> Manifest:
    """Give parts of two recordings at odd places, in no order, one of them stereo, and a whole one."""
    write_wav(tmp_path / "speech/long talk.flac", 44_100, rate=44_100, channels=2)
    write_wav(tmp_path / "speech/b.wav", 16_000, seed=1)
    write_wav(tmp_path / "speech/c.wav", 3_001, seed=2)
    talk = Utterance(
        id="talk-2", path="long talk.flac", num_samples=4_007, sample_rate=44_100, channels=2, start=12_347,
        file_samples=44_100, text="to be", speaker="anna", language="en", split="train",
    )  # fmt: skip
    b = replace(talk, path="b.wav", sample_rate=16_000, channels=1, file_samples=16_000, text=None)
    rows = (
        talk,
        replace(b, id="b-1", start=1_001, num_samples=1_003),
        replace(talk, id="talk-1", start=15, num_samples=23, text="not"),
        replace(b, id="b-3", start=15_999, num_samples=1),
        replace(b, id="c", path="c.wav", start=0, num_samples=3_001, file_samples=None),
        replace(talk, id="talk-0", start=0, num_samples=44_099, text="end"),
    )
    return Manifest(root=tmp_path / "speech", utterances=rows)


@given(rate=st.sampled_from([8000, 11_025, 16_000, 44_100, 48_000, 96_000]), samples=st.integers(0, 2**40))
def test_a_time_is_found_again_by_rounding_and_by_truncation(rate, samples):
    seconds = float(repr(seconds_of(samples, rate)))
    assert int(seconds * rate) == round(seconds * rate) == samples


@pytest.mark.parametrize("form", TARGETS)
def test_parts_come_back_sample_for_sample(parts, tmp_path, form):
    notes = export_manifest(parts, tmp_path / TARGETS[form], form)
    again, _ = import_manifest(tmp_path / TARGETS[form], form, root=parts.root)
    expected = [replace(row, split=None) for row in parts.utterances] if form == "kaldi" else list(parts.utterances)
    assert any("no place for split" in note for note in notes) == (form == "kaldi")
    if form == "kaldi":  # which sorts
        expected.sort(key=lambda row: row.id)
    assert list(again.utterances) == expected
    write_manifest(tmp_path / "again.tsv", again.utterances)
    assert read_manifest(tmp_path / "again.tsv", root=parts.root) == again


def test_lhotse_recordings_and_supervisions_are_read_without_cuts(parts, tmp_path):
    export_manifest(parts, tmp_path / "out", "lhotse")
    (tmp_path / "out/cuts.jsonl.gz").unlink()
    again, _ = import_manifest(tmp_path / "out", "lhotse", root=parts.root)
    assert sorted(again.utterances, key=lambda row: row.id) == sorted(parts.utterances, key=lambda row: row.id)


def test_lhotse_loads_the_samples_that_we_mean(parts, tmp_path):
    lhotse = pytest.importorskip("lhotse", reason="its reader is what the files are for")
    export_manifest(parts, tmp_path / "out", "lhotse")
    recordings = lhotse.load_manifest(tmp_path / "out/recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(tmp_path / "out/supervisions.jsonl.gz")
    cuts = lhotse.load_manifest(tmp_path / "out/cuts.jsonl.gz")
    assert len(recordings) == 3
    for found in (recordings, supervisions, cuts):
        lhotse.validate(found)
    trimmed = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions).trim_to_supervisions()
    by_supervision = {one.supervisions[0].id: one for one in trimmed}
    for row, cut in zip(parts.utterances, cuts, strict=True):
        samples, _ = soundfile.read(parts.audio_path(row), dtype="float32", always_2d=True)
        expected = samples[row.start : row.start + row.num_samples].T
        np.testing.assert_array_equal(cut.load_audio(), expected)
        if row.channels == 1:  # Lhotse's from_manifests makes a cut of every channel
            np.testing.assert_array_equal(by_supervision[row.id].load_audio(), expected)
        assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == (row.text, row.speaker)


def test_kaldi_lists_every_recording_once(parts, tmp_path):
    export_manifest(parts, tmp_path / "out", "kaldi")
    assert (tmp_path / "out/wav.scp").read_text(encoding="utf-8").splitlines() == [
        f"b {parts.root}/b.wav",
        f"c {parts.root}/c.wav",
        f"long_talk {parts.root}/long talk.flac",
    ]
    lines = (tmp_path / "out/segments").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["b-1 b 0.06256250000000001 0.12525", "b-3 b 0.9999375 1.0", "c c 0.0 0.1875625"]
    whole = replace(parts, utterances=parts.utterances[4:5])
    export_manifest(whole, tmp_path / "out", "kaldi")
    assert not (tmp_path / "out/segments").exists(), "left by the first export"


def test_recordings_get_ids_of_their_own(parts):
    rows = [replace(parts.utterances[0], id=f"u{i}", path=path) for i, path in enumerate(("a/b.wav", "a-b.wav", "c"))]
    rows.append(replace(rows[0], id="c", path="d.wav", start=0, file_samples=None))
    rows.append(replace(rows[0], id="e", path="d.wav"))
    ids = recording_ids(Manifest(root=parts.root, utterances=tuple(rows)))
    assert ids == {"a/b.wav": "a-b", "a-b.wav": "a-b-2", "c": "c-2", "d.wav": "c"}


@pytest.mark.parametrize(("form", "target"), [("fairseq", "out/train.tsv"), ("audiofolder", "speech")])
def test_formats_of_whole_files_refuse_parts_by_name(parts, tmp_path, form, target):
    narrow = replace(parts, utterances=tuple(row for row in parts.utterances if row.sample_rate == 16_000))
    with pytest.raises(ManifestError, match=r"b-1: is a part of"):
        export_manifest(narrow, tmp_path / target, form)
    assert not list(tmp_path.rglob("train.tsv")) + list(tmp_path.rglob("metadata.jsonl"))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_saved_dataset_gets_parts_as_files_with_the_same_samples(parts, tmp_path, subtype):
    datasets = pytest.importorskip("datasets", reason="saved datasets are read and written by it")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(parts.root / "b.wav", noise, 16_000, subtype=subtype)
    kept = replace(parts, utterances=tuple(row for row in parts.utterances if row.id != "talk-0"))
    notes = export_manifest(kept, tmp_path / "out", "dataset")
    assert notes == ["4 parts of recordings are files of their own in the dataset"]
    saved = datasets.load_from_disk(str(tmp_path / "out")).cast_column("audio", datasets.Audio(decode=False))
    assert saved["id"][:] == [row.id for row in kept.utterances]
    again, _ = import_manifest(tmp_path / "out", "dataset", root=tmp_path / "files")
    for row, before in zip(again.utterances, kept.utterances, strict=True):
        found, _ = soundfile.read(again.audio_path(row), dtype="float32", always_2d=True)
        samples, _ = soundfile.read(kept.audio_path(before), dtype="float32", always_2d=True)
        np.testing.assert_array_equal(found, samples[before.start : before.start + before.num_samples])
        assert (row.text, row.speaker, row.start, row.file_samples) == (before.text, before.speaker, 0, None)


@pytest.mark.parametrize("form", ["kaldi", "nemo", "lhotse", "audiofolder", "dataset"])
@pytest.mark.parametrize("path", ["x.tar:512:99", "https://host/a.flac"])
def test_audio_in_archives_and_at_urls_is_refused_where_files_are_listed(parts, tmp_path, form, path):
    if form == "dataset":
        pytest.importorskip("datasets", reason="saved datasets are read and written by it")
    away = replace(parts, utterances=(replace(parts.utterances[4], path=path),))
    with pytest.raises(ManifestError, match=r"c: .* is in an archive or at a URL, and .* lists? files"):
        export_manifest(away, tmp_path / "out", form)


def test_tables_from_elsewhere_say_parts_in_seconds(parts, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("wav,from,to\nb.wav,0.5,0.75\nb.wav,0.75,\n", encoding="utf-8")
    columns = {"path": "wav", "start_s": "from", "end_s": "to"}
    found, _ = import_manifest(path, "table", root=parts.root, columns=columns)
    assert [row.id for row in found.utterances] == ["b-00000500-00000750", "b-00000750-00001000"]
    path.write_text("id,wav,start,duration\nx,b.wav,0.5,0.25\ny,b.wav,0.75,0.1\n", encoding="utf-8")
    columns = {"path": "wav", "start_s": "start", "duration_s": "duration"}
    found, _ = import_manifest(path, "table", root=parts.root, columns=columns)
    assert [(row.start, row.num_samples) for row in found.utterances] == [(8000, 4000), (12_000, 1600)]
    with pytest.raises(ManifestError, match=r"t\.csv:2: start counts samples, as in a manifest.*--columns start_s="):
        import_manifest(path, "table", root=parts.root, columns={"path": "wav"})
    path.write_text("path,end_s\nb.wav,0.5\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"t\.csv:2: an end without a start"):
        import_manifest(path, "table", root=parts.root)
    path.write_text("path,start_s,end_s\nb.wav,now,0.5\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"t\.csv:2: start_s is 'now', expected seconds"):
        import_manifest(path, "table", root=parts.root)
    path.write_text("path,samples,start,file_samples\nb.wav,9,15999,16000\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"t\.csv:2: has the samples 15999 to 16008, b\.wav lasts 1 s: not a part"):
        import_manifest(path, "table", root=parts.root)


def test_a_recording_that_changed_since_its_parts_were_listed_is_named(parts, tmp_path, write_wav):
    for form in ("lhotse", "table"):
        export_manifest(parts, tmp_path / TARGETS[form], form)
    write_wav(parts.root / "b.wav", 20_000)
    for form in ("lhotse", "table"):
        with pytest.raises(ManifestError, match=r"states 1 s, b\.wav lasts 1\.25 s; it was changed or truncated"):
            import_manifest(tmp_path / TARGETS[form], form, root=parts.root)


def test_parts_of_one_file_are_merged_and_the_same_part_twice_is_not(parts):
    one, other = (replace(parts, utterances=parts.utterances[a:b]) for a, b in ((0, 2), (2, 5)))
    joined = merge([one, other])
    assert joined.utterances == parts.utterances[:5]
    with pytest.raises(ManifestError, match=r"2 occur twice as file: long talk.flac \(samples 12347 to 16354\), b.wav"):
        merge([one, one], prefixes=["a", "b"])
    near = replace(one, utterances=(replace(one.utterances[1], id="near", start=2_003),))
    with pytest.raises(ManifestError, match=r"b.wav: near of one manifest and b-1 of another hold the same samples"):
        merge([one, near])
    assert len(merge([one, replace(near, utterances=(replace(near.utterances[0], start=2_004),))]).utterances) == 3
    whole = replace(parts.utterances[1], id="b", start=0, num_samples=16_000, file_samples=None)
    with pytest.raises(ManifestError, match=r"b.wav: b-1 of one manifest and b of another hold the same samples"):
        merge([one, replace(other, utterances=(whole,))])
    both = replace(one, utterances=(*one.utterances, replace(one.utterances[1], id="at once", start=1_500)))
    assert len(merge([both, other]).utterances) == 6


def test_urls_stay_as_they_are_in_a_merge(parts):
    away = replace(parts, utterances=(replace(parts.utterances[4], path="https://host/a.flac", id="away"),))
    assert merge([parts, away]).utterances[-1].path == "https://host/a.flac"


def test_parts_of_a_recording_may_be_kept_together(parts):
    rows = [replace(parts.utterances[0], id=f"{i}-{j}", path=f"{i}.wav") for i in range(40) for j in range(5)]
    splits = split_by_shares(rows, {"test": 0.3, "train": 0.7}, by="path")
    files = [{row.path for row in of} for of in splits.values()]
    assert all(files)
    assert not files[0] & files[1]
    more = split_by_shares(rows[50:], {"test": 0.3, "train": 0.7}, by="path")
    assert {row.path for row in more["test"]} <= files[0], "stable when data are added"


def test_choosing_and_drawing_keep_parts_as_they_are(parts):
    kept, _ = choose(parts.utterances, Wanted(max_s=0.1))
    assert [row.id for row in kept] == ["talk-2", "b-1", "talk-1", "b-3"]
    assert kept[1] == parts.utterances[1]
    assert set(sample(parts.utterances, parts.duration_s / 3600)) == set(parts.utterances)


def test_what_came_back_is_read_from_the_place_it_was(parts, tmp_path):
    export_manifest(parts, tmp_path / "out", "kaldi")
    again, _ = import_manifest(tmp_path / "out", "kaldi", root=parts.root)
    row = next(row for row in again.utterances if row.id == "b-1")
    samples, _ = soundfile.read(parts.root / "b.wav", dtype="float32")
    np.testing.assert_array_equal(read_utterance(again, row, AudioConfig()).numpy(), samples[1_001:2_004])


def test_one_line_of_a_cut_says_where_it_lies(parts, tmp_path):
    export_manifest(parts, tmp_path / "out", "lhotse")
    cut = json.loads(gzip.decompress((tmp_path / "out/cuts.jsonl.gz").read_bytes()).splitlines()[1])
    assert (cut["start"], cut["supervisions"][0]["start"], cut["recording"]["id"]) == (
        seconds_of(1_001, 16_000),
        0.0,
        "b",
    )


def test_a_recording_of_many_parts_is_looked_at_once(parts, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(entries, "read_header", lambda where: read.append(str(where)) or read_header(where))
    export_manifest(parts, tmp_path / "out", "kaldi")
    import_manifest(tmp_path / "out", "kaldi", root=parts.root)
    assert sorted(read) == sorted({str(parts.audio_path(row)) for row in parts.utterances})
