"""One channel of several: as a column of manifests, as it is read, and as other toolkits' files say it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import AudioConfig
from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.corpus.merge import merge
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.data.waveform import read_utterance
from speechssl.errors import AudioError, ManifestError

RATE = 16_000
ANY_LENGTH = CheckConfig(min_duration_s=0.01)


@pytest.fixture
def call(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Write a call of two people, one a channel, and return its file and its (time, 2) samples."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * RATE, 2)).astype(np.float32)
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech/call.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "speech/call.wav", samples


@pytest.fixture
def sides(call: tuple[Path, np.ndarray]) -> Manifest:
    """List a part of each side, all of the second, and a part of both mixed."""
    path, _ = call
    all_of_b = Utterance(
        id="b", path=path.name, num_samples=2 * RATE, sample_rate=RATE, channels=2, channel=1, text="c"
    )
    part = dataclasses.replace(all_of_b, id="a-1", channel=0, start=100, num_samples=RATE, file_samples=2 * RATE)
    rows = (
        part,
        all_of_b,
        dataclasses.replace(part, id="b-1", channel=1, text="d"),
        dataclasses.replace(part, id="both", channel=None),
    )
    return Manifest(root=path.parent, utterances=rows)


def test_the_channel_is_heard_and_no_other(call, sides):
    _, samples = call
    parts = [
        samples[100 : RATE + 100, 0],
        samples[:, 1],
        samples[100 : RATE + 100, 1],
        samples[100 : RATE + 100].mean(1),
    ]
    for policy in ("mean", "refuse"):
        for row, expected in zip(sides.utterances[: 4 if policy == "mean" else 3], parts, strict=False):
            np.testing.assert_array_equal(read_utterance(sides, row, AudioConfig(channels=policy)), expected)
    np.testing.assert_array_equal(
        read_utterance(sides, sides.utterances[2], AudioConfig(), start=50, num_samples=70), samples[150:220, 1]
    )


def test_a_channel_that_the_file_lacks_is_named(sides):
    row = dataclasses.replace(sides.utterances[0], channel=2)
    with pytest.raises(AudioError, match=r"call\.wav: has 2 channels, the manifest names 2, counted from 0"):
        read_utterance(sides, row, AudioConfig())


@pytest.mark.parametrize("name", ["m.tsv", "m.parquet"])
def test_manifests_keep_the_channel(sides, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="reads and writes Parquet")
    write_manifest(sides.root / name, sides.utterances)
    assert [*read_manifest(sides.root / name).utterances] == [*sides.utterances]


@pytest.mark.parametrize("channel", ["2", "-1", "left", "1.0"])
def test_a_column_that_names_no_channel_is_refused(tmp_path, channel):
    header = "id\tpath\tsamples\trate\tchannels\tchannel\n"
    (tmp_path / "m.tsv").write_text(f"{header}a\ta.wav\t9\t16000\t2\t\nb\tb.wav\t9\t16000\t2\t{channel}\n")
    with pytest.raises(
        ManifestError, match=rf"m\.tsv:3: channel is '{channel}' of 2, expected a number counted from 0"
    ):
        read_manifest(tmp_path / "m.tsv")


@pytest.mark.parametrize(("form", "name"), [("kaldi", "k"), ("nemo", "n.json"), ("lhotse", "l"), ("table", "t.csv")])
def test_other_toolkits_files_hold_it(sides, tmp_path, form, name):
    export_manifest(sides, tmp_path / name, form)
    found, _ = import_manifest(tmp_path / name, form, root=sides.root)
    assert {row.id: row for row in found.utterances} == {row.id: row for row in sides.utterances}


def test_a_dataset_gets_the_channel_as_a_file(sides, call, tmp_path):
    pytest.importorskip("datasets", reason="saved datasets are read and written by it")
    export_manifest(sides, tmp_path / "d", "dataset")
    found, _ = import_manifest(tmp_path / "d", "dataset", root=tmp_path / "files")
    assert [(row.id, row.channels, row.num_samples) for row in found.utterances] == [
        ("a-1", 1, RATE), ("b", 1, 2 * RATE), ("b-1", 1, RATE), ("both", 2, RATE)
    ]  # fmt: skip
    np.testing.assert_array_equal(read_utterance(found, found.utterances[1], AudioConfig()), call[1][:, 1])


@pytest.mark.parametrize("form", ["fairseq", "audiofolder"])
def test_lists_of_whole_files_refuse_it(sides, form):
    whole = dataclasses.replace(sides, utterances=sides.utterances[1:2])
    with pytest.raises(ManifestError, match=r"b: is (one channel of|a part of) call\.wav"):
        export_manifest(whole, sides.root / ("m.tsv" if form == "fairseq" else ""), form)


def kaldi(folder: Path, tables: dict[str, str]) -> Path:
    for name, content in tables.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"segments": "u call 0 1 1\nv call 0.5 -1 0\nw call 0 1\nx call 0 1 -1\n"}, [1, 0, None, None]),
        ({"reco2file_and_channel": "A call A\nB call B\n"}, [0, 1]),
        ({"reco2file_and_channel": "A call 1\nB call 2\n"}, [0, 1]),
        ({"reco2file_and_channel": "A\tcall\tA\nB\tcall\tB\n"}, [0, 1]),
        ({"reco2file_and_channel": "A call 0\nB call 1\n"}, [0, 1]),
        ({"reco2file_and_channel": "B call B\n"}, [None, 1]),
        ({"reco2file_and_channel": "A call A\nB call B\n", "segments": "u A 0 1\nv B 0 1\nw B 0 1 0\n"}, [0, 1, 0]),
    ],
)
def test_kaldi_says_the_channel_in_two_places(call, tables, expected):
    path, _ = call
    recordings = {"wav.scp": "A call.wav\nB call.wav\n" if "reco2file_and_channel" in tables else "call call.wav\n"}
    found, _ = import_manifest(kaldi(path.parent, recordings | tables), "kaldi")
    assert [row.channel for row in found.utterances] == expected


def test_the_side_of_a_call_that_is_a_file_of_its_own_is_that_file(tmp_path, write_wav):
    write_wav(tmp_path / "a.wav", 16_000)
    write_wav(tmp_path / "b.wav", 16_000)
    folder = kaldi(tmp_path, {"wav.scp": "A a.wav\nB b.wav\n", "reco2file_and_channel": "A call A\nB call B\n"})
    found, notes = import_manifest(folder, "kaldi")
    assert [row.channel for row in found.utterances] == [None, None]
    assert notes == [f"{folder}: taken: path from wav.scp, channel from reco2file_and_channel"]
    with pytest.raises(ManifestError, match=r"segments:1: names the channel 1, counted from 0; a\.wav has 1: correct"):
        import_manifest(kaldi(folder, {"segments": "u A 0 1 1\n"}), "kaldi")


@pytest.mark.parametrize(
    ("named", "expected"),
    [({"channel": 1}, 1), ({"channel_selector": 0}, 0), ({"channel_selector": "average"}, None), ({}, None)],
)
def test_nemo_has_two_names_for_it(call, named, expected):
    path, _ = call
    line = {"audio_filepath": "call.wav", "offset": 0.5, "duration": 1.0, "text": "yes", **named}
    (path.parent / "m.json").write_text(json.dumps(line))
    (row,) = import_manifest(path.parent / "m.json", "nemo")[0].utterances
    assert row.channel == expected
    assert row.id == "call-00000500-00001500" + ("" if expected is None else f"-channel{expected}")


@pytest.mark.parametrize("channel", [[0, 1], -1, 2, True, "left"])
def test_nemos_channels_that_are_none_are_named(call, channel):
    path, _ = call
    (path.parent / "m.json").write_text(json.dumps({"audio_filepath": "call.wav", "channel": channel}))
    with pytest.raises(ManifestError, match=r"m\.json:1: (channel is|names the channel 2).*counted from 0"):
        import_manifest(path.parent / "m.json", "nemo")


def test_supervisions_of_the_sides_of_a_recording_are_of_their_channels(sides, tmp_path):
    export_manifest(sides, tmp_path / "l", "lhotse")
    (tmp_path / "l/cuts.jsonl.gz").unlink()
    for kind in ("recordings", "supervisions"):
        (tmp_path / f"l/{kind}.jsonl.gz").rename(tmp_path / f"l/calls_{kind}_train.jsonl.gz")
    for named in ("", "calls_supervisions_train.jsonl.gz"):
        found, _ = import_manifest(tmp_path / "l" / named, "lhotse", root=sides.root)
        assert {row.id: row for row in found.utterances} == {row.id: row for row in sides.utterances}
    alone, notes = import_manifest(tmp_path / "l/calls_recordings_train.jsonl.gz", "lhotse", root=sides.root)
    assert [row.text for row in alone.utterances] == [None]
    assert "its texts, in calls_supervisions_train.jsonl.gz, are not taken" in notes[0]


def test_manifests_of_two_channels_are_merged_and_of_one_twice_are_not(sides):
    a, b, again = (dataclasses.replace(sides, utterances=sides.utterances[i : i + 1]) for i in (0, 1, 2))
    assert merge([a, b]).utterances == sides.utterances[:2]
    with pytest.raises(ManifestError, match=r"call\.wav: b-1 of one manifest and b of another hold the same samples"):
        merge([b, again])
    mixed = dataclasses.replace(sides, utterances=sides.utterances[3:])
    with pytest.raises(ManifestError, match="hold the same samples"):
        merge([b, mixed])


def test_the_check_hears_the_channel(call, sides):
    path, samples = call
    soundfile.write(path, samples * np.float32([0, 1]), RATE, subtype="FLOAT")
    found = check_manifests([sides], ["m"], ANY_LENGTH, jobs=1).findings
    assert [(one.id, one.name) for one in found if one.severity == "error"] == [("a-1", "silent")]
    assert [one.id for one in found if one.name == "channels"] == ["both"]


@pytest.mark.parametrize("residue", [0.0, 0.005])
def test_channels_that_cancel_are_told_not_averaged(call, sides, residue):
    path, samples = call
    upside_down = np.stack([samples[:, 0], (residue - 1) * samples[:, 0]], axis=1)
    soundfile.write(path, upside_down, RATE, subtype="FLOAT")
    both, first = sides.utterances[3], sides.utterances[0]
    with pytest.raises(
        AudioError, match=r"call\.wav: its channels cancel.*name one in the manifest.s column `channel`"
    ):
        read_utterance(sides, both, AudioConfig())
    assert read_utterance(sides, both, AudioConfig(channels="first")).any()
    assert read_utterance(sides, first, AudioConfig()).any()
    alone = dataclasses.replace(sides, utterances=(both, first))
    found = check_manifests([alone], ["m"], ANY_LENGTH, jobs=1).findings
    assert [one.id for one in found if one.name == "cancelling"] == ["both"]
