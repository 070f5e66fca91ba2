"""Lhotse's files: its own reader takes ours, we take what it writes, and what only it can carry out is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.corpus.formats.lhotse_cuts import write_lhotse
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError


@pytest.fixture
def cut(corpus, tmp_path):
    """Give the first cut as an object, and a function that reads a file of one cut."""
    write_lhotse(tmp_path / "out", corpus)
    first = json.loads(gzip.decompress((tmp_path / "out/cuts.jsonl.gz").read_bytes()).splitlines()[0])

    def read(row: object) -> Manifest:
        (tmp_path / "cuts.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        return import_manifest(tmp_path / "cuts.jsonl", "lhotse", root=corpus.root)[0]

    return first, read


def test_lhotse_reads_what_we_write(corpus, tmp_path, write_wav):
    lhotse = pytest.importorskip("lhotse", reason="its reader is what the files are for")
    write_wav(corpus.root / "wide.wav", 4411, rate=44_100, channels=2)
    (corpus.root / "t.csv").write_text("path\nwide.wav\n", encoding="utf-8")
    wide, _ = import_manifest(corpus.root / "t.csv", "table")
    joined = Manifest(root=corpus.root, utterances=corpus.utterances + wide.utterances)
    export_manifest(joined, tmp_path / "out", "lhotse")
    recordings = lhotse.load_manifest(tmp_path / "out/recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(tmp_path / "out/supervisions.jsonl.gz")
    cuts = lhotse.load_manifest(tmp_path / "out/cuts.jsonl.gz")
    for found in (recordings, supervisions, cuts):
        lhotse.validate(found, read_data=True) if found is not supervisions else lhotse.validate(found)
    assert list(lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions).ids) != []
    for row, one in zip(joined.utterances, cuts, strict=True):
        assert (one.id, one.num_samples, one.sampling_rate) == (row.id, row.num_samples, row.sample_rate)
        said = one.supervisions[0]
        assert (said.text, said.speaker, said.language) == (row.text, row.speaker, row.language)
        assert said.custom == ({"split": row.split} if row.split else None)
        assert one.load_audio().shape == (row.channels, row.num_samples)
    ours = read_audio(joined.audio_path(joined.utterances[0]), AudioConfig())
    np.testing.assert_array_equal(next(iter(cuts)).load_audio()[0], ours.numpy())


def test_we_read_what_lhotse_writes(corpus, tmp_path):
    lhotse = pytest.importorskip("lhotse", reason="its files are what is read")
    cuts = []
    for row in corpus.utterances:
        one = lhotse.Recording.from_file(corpus.audio_path(row), recording_id=row.id).to_cut()
        one.supervisions.append(
            lhotse.SupervisionSegment(
                id=f"{row.id}-0", recording_id=row.id, start=0, duration=one.duration, text=row.text,
                speaker=row.speaker, language=row.language, custom={"split": row.split},
            )
        )  # fmt: skip
        cuts.append(one)
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    assert import_manifest(tmp_path / "cuts.jsonl.gz", "lhotse", root=corpus.root)[0] == corpus


def test_recordings_alone_and_cuts_alone_are_read(corpus, tmp_path):
    write_lhotse(tmp_path / "out", corpus)
    alone, _ = import_manifest(tmp_path / "out/recordings.jsonl.gz", "lhotse", root=corpus.root)
    assert [(row.id, row.text) for row in alone.utterances] == [(row.id, None) for row in corpus.utterances]
    cuts = (tmp_path / "out/cuts.jsonl.gz").rename(tmp_path / "kept")
    assert import_manifest(tmp_path / "out", "lhotse", root=corpus.root)[0] == corpus
    (tmp_path / "out/recordings.jsonl.gz").unlink()
    cuts.rename(tmp_path / "out/cuts.jsonl.gz")
    assert import_manifest(tmp_path / "out", "lhotse", root=corpus.root)[0] == corpus
    (tmp_path / "out/cuts.jsonl.gz").unlink()
    with pytest.raises(
        ManifestError, match=r"expected a file such as cuts\.jsonl\.gz, or recordings\.jsonl\.gz and supervisions"
    ):
        import_manifest(tmp_path / "out", "lhotse", root=corpus.root)


def test_a_supervision_of_no_recording_is_named(corpus, tmp_path):
    write_lhotse(tmp_path / "out", corpus)
    (tmp_path / "out/cuts.jsonl.gz").unlink()
    path = tmp_path / "out/recordings.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(gzip.decompress(path.read_bytes()).split(b"\n")[1:])))
    with pytest.raises(ManifestError, match=r"the recordings anna-1601 are not in recordings\.jsonl\.gz"):
        import_manifest(tmp_path / "out", "lhotse", root=corpus.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 0.2}, r"starts at 0\.2 s and lasts 0\.1000.* s, a/one\.wav lasts 0\.1000.* s: not a part of it"),
        ({"duration": 0.02}, r"the supervision anna-1601 starts at 0 s and lasts 0\.1000.* s, its cut 0\.02 s"),
        (
            {"supervisions.0.start": 0.06},
            r"the supervision anna-1601 starts at 0\.06 s and lasts .* outside of supervisions",
        ),
        ({"supervisions.0.start": -0.06}, r"the supervision anna-1601 starts at -0\.06 s"),
        ({"supervisions.0.start": float("nan")}, r"the supervision anna-1601 starts at nan s"),
        ({"supervisions.0.duration": 0.0}, r"starts at 0 s and lasts 0 s, a/one\.wav lasts"),
        ({"recording.sources.0.type": "command"}, r"a source of type 'command', which only Lhotse carries out"),
        ({"recording.sources.0.type": "url"}, r"a source of type 'url'"),
        ({"recording.transforms": [{"name": "Speed"}]}, r"has a transform, which only Lhotse carries out"),
        ({"recording.sources": []}, r"is not made of one file"),
        (
            {"recording.channel_ids": [0, 1, 2], "channel": [0, 2]},
            r"has the channels \[0, 2\] of \[0, 1, 2\], expected one or all; save its audio to a file of its own",
        ),
        ({"recording.num_samples": 1.5}, r"num_samples is 1\.5, expected a whole number"),
        ({"recording.num_samples": 1e999}, r"num_samples is inf, expected a whole number"),
        ({"recording.sampling_rate": "16000"}, r"sampling_rate is '16000', expected a number"),
        ({"type": "MixedCut"}, r"is a MixedCut, expected a MonoCut or MultiCut"),
        ({"supervisions": [{}, 1]}, r"has supervisions that are no objects"),
        ({"supervisions": [{"id": "x"}, {"id": "x"}]}, r"the id 'x' was given before"),
        ({"supervisions.0.text": ["a"]}, r"text is \['a'\], expected a string"),
        ({"supervisions.0.text": "a\tb"}, r"'a\\tb' has a tab or line break"),
        ({"id": "\udcff"}, r"'\\udcff' has a tab or line break, or is not UTF-8"),
    ],
)
def test_what_a_manifest_cannot_hold_is_refused_by_name(cut, change, message):
    row, read = cut
    for dotted, value in change.items():
        *way, last = dotted.split(".")
        inner = row
        for step in way:
            inner = inner[int(step)] if step.isdecimal() else inner[step]
        inner[last] = value
    with pytest.raises(ManifestError, match=rf"cuts\.jsonl:1: .*{message}"):
        read(row)


def test_the_same_manifest_gives_the_same_bytes(corpus, tmp_path):
    for name in ("one", "two"):
        write_lhotse(tmp_path / name, corpus)
    for path in Path(tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_every_supervision_of_a_cut_is_an_utterance_and_the_rest_is_counted(cut, corpus, tmp_path):
    row, read = cut
    said = row["supervisions"][0]
    row["supervisions"] = [
        said | {"id": "u", "start": 0.01, "duration": 0.03, "text": "one"},
        said | {"id": "v", "start": 0.03, "duration": 0.03, "text": "two"},
    ]
    found = read(row).utterances
    assert [(each.id, each.text, each.start, each.num_samples) for each in found] == [
        ("u", "one", 160, 480),
        ("v", "two", 480, 480),
    ]
    _, notes = import_manifest(tmp_path / "cuts.jsonl", "lhotse", root=corpus.root)
    assert notes == ["1 cuts were trimmed to their supervisions; 0.1 s outside of them are not taken"]
    row |= {"start": 0.02, "duration": 0.06, "supervisions": []}
    assert [(each.id, each.start, each.num_samples) for each in read(row).utterances] == [("anna-1601", 320, 960)]


def test_what_lhotse_trims_to_supervisions_we_read_as_it_does(corpus, tmp_path, write_wav):
    lhotse = pytest.importorskip("lhotse", reason="it says what a supervision of a cut is")
    write_wav(corpus.root / "long.flac", 44_100, rate=44_100)
    whole = lhotse.Recording.from_file(corpus.root / "long.flac", recording_id="long").to_cut()
    for number, (start, duration) in enumerate([(0.1, 0.2345678), (0.30001, 0.33333), (0.9, 0.05)]):
        whole.supervisions.append(
            lhotse.SupervisionSegment(id=f"s{number}", recording_id="long", start=start, duration=duration)
        )
    cuts = lhotse.CutSet.from_cuts([whole.truncate(offset=0.05)])
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    ours, _ = import_manifest(tmp_path / "cuts.jsonl.gz", "lhotse", root=corpus.root)
    samples, _ = soundfile.read(corpus.root / "long.flac", dtype="float32")
    for row, one in zip(ours.utterances, cuts.trim_to_supervisions(), strict=True):
        theirs = one.load_audio()[0]
        np.testing.assert_array_equal(theirs, samples[row.start : row.start + row.num_samples])
