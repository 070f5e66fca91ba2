"""Frame labels, and how they line up with the frames of an encoder."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.labels import FrameLabels, LabelSource, join_labels, read_labels, write_labels
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import LabelError
from tests.oracles.labels import reference_targets

MFCC = LabelSource(clusters=100, hop=160, window=400, features="mfcc", kmeans="abc", settings={"dim": 39, "hop": 160})
LAYER = LabelSource(
    clusters=500, hop=320, window=400, features="run/step_9 layer 6", kmeans="def", settings={"layer": 6}
)


def rows(**lengths: int) -> Manifest:
    utterances = tuple(
        Utterance(id=key, path=f"{key}.wav", num_samples=n, sample_rate=16_000, channels=1)
        for key, n in lengths.items()
    )
    return Manifest(root=None, utterances=utterances)


def oracle_nearest(
    units: np.ndarray, source: LabelSource, start: int, num_frames: int, hop: int, window: int
) -> list[int]:
    """Compare the centre of every frame with the centre of every label; the later one wins a tie."""
    chosen = []
    for frame in range(num_frames):
        centre = start + frame * hop + window / 2
        distances = [abs(i * source.hop + source.window / 2 - centre) for i in range(len(units))]
        chosen.append(int(units[max(i for i, distance in enumerate(distances) if distance == min(distances))]))
    return chosen


def test_labels_survive_being_written_and_read(tmp_path):
    units = {"a": np.array([0, 99, 5], dtype=np.int16), "b c": np.array([7], dtype=np.int16)}
    write_labels(tmp_path / "labels.tsv", FrameLabels(source=MFCC, units=units))
    found = read_labels(tmp_path / "labels.tsv")
    assert dataclasses.asdict(found.source) == dataclasses.asdict(MFCC)
    assert {key: value.tolist() for key, value in found.units.items()} == {"a": [0, 99, 5], "b c": [7]}


@pytest.mark.parametrize("key", ["a\u2028b", "a\x85b", "a\x0cb", "дым", "a b"])
def test_an_id_with_an_exotic_character_survives(tmp_path, key):
    write_labels(tmp_path / "labels.tsv", FrameLabels(source=MFCC, units={key: np.array([1, 2])}))
    assert read_labels(tmp_path / "labels.tsv").units[key].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("clusters", "kind"), [(100, np.int16), (2**15 - 1, np.int16), (2**15, np.int32), (10**6, np.int32)]
)
def test_units_are_held_in_the_smallest_type_that_fits(tmp_path, clusters, kind):
    source = dataclasses.replace(MFCC, clusters=clusters)
    write_labels(tmp_path / "l", FrameLabels(source=source, units={"a": np.array([clusters - 1])}))
    units = read_labels(tmp_path / "l").units["a"]
    assert (units.dtype, units.tolist()) == (kind, [clusters - 1])


@pytest.mark.parametrize("seconds", [1.0, 1.005, 2.37])
def test_base_frames_take_every_second_mfcc_label(seconds):
    num_samples = round(seconds * 16_000)
    units = np.arange(MFCC.count(num_samples))
    num_frames = (num_samples - 400) // 320 + 1
    labels = FrameLabels(source=MFCC, units={"a": units})
    found = labels.at_frames("a", start=0, num_frames=num_frames, hop=320, window=400)
    assert found.dtype == torch.int64
    assert found.tolist() == units[::2][:num_frames].tolist()


def test_a_crop_of_base_takes_every_second_label_from_its_start_on():
    units = np.arange(MFCC.count(32_000))
    labels = FrameLabels(source=MFCC, units={"a": units})
    found = labels.at_frames("a", start=320 * 7, num_frames=20, hop=320, window=400)
    assert found.tolist() == units[14 : 14 + 40 : 2].tolist()


@given(
    hop=st.sampled_from([80, 160, 320, 640]),
    window=st.integers(10, 1200),
    label_hop=st.sampled_from([80, 160, 320, 640, 100]),
    label_window=st.integers(10, 1200),
    start=st.integers(0, 40),
    num_samples=st.integers(3000, 9000),
)
def test_each_frame_takes_the_label_whose_centre_is_nearest(hop, window, label_hop, label_window, start, num_samples):
    source = LabelSource(clusters=10**6, hop=label_hop, window=label_window, features="x", kmeans="x")
    units = np.arange(source.count(num_samples))
    start *= hop
    num_frames = max(0, (num_samples - start - window) // hop + 1)
    found = FrameLabels(source=source, units={"a": units}).at_frames(
        "a", start=start, num_frames=num_frames, hop=hop, window=window
    )
    assert found.tolist() == oracle_nearest(units, source, start, num_frames, hop, window)


@pytest.mark.parametrize(("num_samples", "expected"), [(399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98)])
def test_the_source_counts_labels_as_windows_that_fit(num_samples, expected):
    assert MFCC.count(num_samples) == expected


def test_labels_of_the_manifest_s_audio_pass():
    FrameLabels(source=MFCC, units={"a": np.zeros(98), "b": np.zeros(1), "more": np.zeros(5)}).check(
        rows(a=16_000, b=400), where="x"
    )


def test_utterances_without_labels_are_counted_and_three_are_named():
    labels = FrameLabels(source=MFCC, units={"a": np.zeros(98)})
    manifest = rows(a=16_000, b=400, c=400, d=400, e=400)
    with pytest.raises(
        LabelError, match=r"x\.tsv: 4 utterances of the manifest have no labels: b, c, d; make them again"
    ):
        labels.check(manifest, where="x.tsv")


@pytest.mark.parametrize(("found", "num_samples", "expected"), [(97, 16_000, 98), (99, 16_000, 98), (0, 300, 0)])
def test_a_number_of_labels_that_is_not_the_audio_s_is_refused(found, num_samples, expected):
    labels = FrameLabels(source=MFCC, units={"a": np.zeros(found)})
    with pytest.raises(
        LabelError,
        match=f"x.tsv: a has {found} labels, its audio of {num_samples} samples makes {expected}; .*other audio",
    ):
        labels.check(rows(a=num_samples), where="x.tsv")


def written(path: Path, **units: list[int]) -> Path:
    labels = FrameLabels(source=MFCC, units={key: np.array(row, dtype=np.int16) for key, row in units.items()})
    write_labels(path, labels)
    return path


def test_the_first_line_says_what_the_file_is(tmp_path):
    lines = written(tmp_path / "l.tsv", a=[0, 99], b=[]).read_text().splitlines()
    about = json.loads(lines[0])
    assert about.pop("fingerprint") == read_labels(tmp_path / "l.tsv").fingerprint()
    assert about == {"version": 2, "utterances": 2, **dataclasses.asdict(MFCC)}
    assert lines[1:] == ["a\t2\t0 99", "b\t0\t"]


@pytest.mark.parametrize("change", ["source", "unit", "id", "order", "boundary", "settings"])
def test_the_fingerprint_changes_with_all_that_the_labels_are(change):
    units = {"a": np.array([1, 2]), "b": np.array([3])}
    labels = FrameLabels(source=MFCC, units=units)
    other = {
        "source": FrameLabels(source=dataclasses.replace(MFCC, kmeans="abd"), units=units),
        "settings": FrameLabels(source=dataclasses.replace(MFCC, settings={"dim": 13}), units=units),
        "unit": FrameLabels(source=MFCC, units={"a": np.array([1, 2]), "b": np.array([4])}),
        "id": FrameLabels(source=MFCC, units={"a": np.array([1, 2]), "c": np.array([3])}),
        "order": FrameLabels(source=MFCC, units={"b": np.array([3]), "a": np.array([1, 2])}),
        "boundary": FrameLabels(source=MFCC, units={"a": np.array([1]), "b": np.array([2, 3])}),
    }[change]
    assert labels.fingerprint() != other.fingerprint()


def test_the_fingerprint_does_not_depend_on_the_type_that_holds_the_units():
    narrow, wide = (
        FrameLabels(source=MFCC, units={"a": np.array([1, 99], dtype=kind)}) for kind in (np.int16, np.int64)
    )
    assert narrow.fingerprint() == wide.fingerprint()


@given(cut=st.integers(1, 200))
def test_a_file_cut_anywhere_does_not_read(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("cut") / "l.tsv", a=[0, 99, 5], b=[17, 3], c=[], d=[12, 34, 56])
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    with pytest.raises(LabelError, match=r"l\.tsv"):
        read_labels(path)


HEADER = (
    '{"version": 2, "utterances": 2, "clusters": 100, "hop": 160, "window": 400, "kmeans": "abc", "features": "mfcc", '
    '"settings": {}, "fingerprint": "0"}'
)
AGAIN = r"make them again: `speechssl cluster` with features=mfcc, kmeans= the kmeans\.safetensors of abc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\na\t2\t0 1\nb\t2\t3 100\n", rf"l\.tsv:3: b has units up to 100, expected 0 to 99; {AGAIN}"),
        (f"{HEADER}\na\t1\t{2**70}\n", r"l\.tsv:2: a has units up to 9223372036854775807, expected 0 to 99"),
        (f"{HEADER}\na\t2\t-1 1\n", r"l\.tsv:2: expected `id<TAB>count<TAB>units`, found b'a\\t2\\t-1 1"),
        (f"{HEADER}\na\t2\t0 x\n", r"l\.tsv:2: expected `id<TAB>count<TAB>units`"),
        (f"{HEADER}\na\t0 1\n", r"l\.tsv:2: expected `id<TAB>count<TAB>units`"),
        (f"{HEADER}\n\n", r"l\.tsv:2: expected `id<TAB>count<TAB>units`"),
        (
            f"{HEADER}\na\t3\t0 1\n",
            rf"l\.tsv:2: the line announces 3 labels and ends after 2; .* truncated: .* {AGAIN}",
        ),
        (f"{HEADER}\na\t1\t1\nb\t2\t1 1", r"l\.tsv:3: the line announces 2 labels and ends after 2; .* truncated"),
        (
            f"{HEADER}\na\t1\t1\n",
            r"l\.tsv: holds 1 utterances, its first line says 2; the file was truncated or joined",
        ),
        (f"{HEADER}\na\t1\t1\na\t1\t1\n", r"l\.tsv:3: a occurs twice"),
        (f"{HEADER}\na\t1\t1\nb\t1\t1\n", r"l\.tsv: was edited after it was written; copy it again"),
        ("a\t0 1\n", r"l\.tsv:1: expected a JSON header"),
        ("[1]\na\t1\t1\n", r"l\.tsv:1: expected a JSON header"),
        ("", r"l\.tsv:1: expected a JSON header"),
        (HEADER.replace("100", "-1"), r"l\.tsv:1: expected utterances, clusters, hop, window as whole numbers above 0"),
        (HEADER.replace('"kmeans": "abc", ', ""), r"l\.tsv:1: expected .* and features, kmeans, fingerprint, settings"),
        (HEADER.replace('"version": 2', '"version": 3'), r"l\.tsv:1: is a label file of version 3, .* reads version 2"),
        ('{"clusters": 100, "hop": 160}\na\t0 1\n', r"is a label file of version 1, .* make the labels again"),
        (None, r"l\.tsv: cannot read labels \(No such file or directory\); run `speechssl cluster`"),
    ],
)
def test_a_label_file_that_cannot_be_trusted_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_labels(tmp_path / "l.tsv")


@pytest.mark.parametrize(("old", "new"), [("0 99", "1 99"), ("a\t", "c\t"), ('"abc"', '"abd"'), ("160", "320")])
def test_a_file_that_was_changed_by_hand_does_not_read(tmp_path, old, new):
    path = written(tmp_path / "l.tsv", a=[0, 99], b=[7])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(LabelError, match="was edited after it was written"):
        read_labels(path)


def test_two_label_files_put_together_by_hand_do_not_read(tmp_path):
    one, other = written(tmp_path / "a.tsv", a=[0, 99]), written(tmp_path / "b.tsv", b=[7])
    one.write_text(one.read_text() + other.read_text())
    with pytest.raises(LabelError, match=r"a\.tsv:3: expected `id<TAB>count<TAB>units`"):
        read_labels(one)


def test_label_files_of_one_k_means_are_joined():
    one, other = (FrameLabels(source=MFCC, units={key: np.array([1])}) for key in "ab")
    renamed = dataclasses.replace(other, source=dataclasses.replace(MFCC, features="mfcc again", settings={}))
    joined = join_labels([(Path("one"), one), (Path("other"), renamed)])
    assert joined.source == MFCC
    assert {key: row.tolist() for key, row in joined.units.items()} == {"a": [1], "b": [1]}


@pytest.mark.parametrize("change", [{"kmeans": "xyz"}, {"clusters": 50}, {"hop": 320}, {"window": 320}])
def test_label_files_of_different_k_means_are_not_joined(change):
    one = FrameLabels(source=MFCC, units={"a": np.array([1])})
    other = FrameLabels(source=dataclasses.replace(MFCC, **change), units={"b": np.array([1])})
    message = (
        r"^other comes from k-means \w+ of mfcc \(\d+ units, one every \d+ samples\), one from k-means abc of mfcc "
        r"\(100 units, one every 160 samples\): .* with kmeans= the kmeans\.safetensors of abc, or all of it anew"
    )
    with pytest.raises(LabelError, match=message):
        join_labels([(Path("one"), one), (Path("other"), other)])


def test_an_utterance_in_two_files_of_a_stream_is_refused():
    one = FrameLabels(source=MFCC, units={"a": np.array([1]), "b": np.array([2])})
    with pytest.raises(LabelError, match="other: 2 utterances are also in an earlier file of the stream: a, b"):
        join_labels([(Path("one"), one), (Path("other"), one)])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            MFCC,
            "features=mfcc, kmeans= the kmeans.safetensors of abc (or clusters=100 for new units), this manifest in",
        ),
        (dataclasses.replace(MFCC, features="mfcc, cmn"), "`speechssl cluster` with features=mfcc cmn=true, kmeans="),
        (
            LAYER,
            "`speechssl cluster` with features=layer layer=6, kmeans= the kmeans.safetensors of def (or clusters=5",
        ),
        (dataclasses.replace(MFCC, features="imported"), "import them again with `speechssl labels`"),
    ],
)
def test_a_source_says_how_its_labels_are_made_again(source, expected):
    assert expected in source.again


BASE = {"hop": 320, "window": 400}  # of an encoder of 50 frames a second
RATES = {100: 160, 50: 320}  # labels a second: samples from one to the next; 25 ms each


def base_frames(num_samples: int) -> int:
    return (num_samples - 400) // 320 + 1


@given(rate=st.sampled_from(sorted(RATES)), num_samples=st.integers(400, 60_000))
def test_whole_utterances_of_base_take_the_labels_that_the_reference_takes(rate, num_samples):
    source = dataclasses.replace(MFCC, hop=RATES[rate], clusters=10**6)
    units = np.arange(source.count(num_samples))
    frames = base_frames(num_samples)
    found = FrameLabels(source=source, units={"a": units}).at_frames("a", start=0, num_frames=frames, **BASE).tolist()
    reference = reference_targets(
        [*units], start=0, num_samples=num_samples, num_frames=frames, label_rate=rate, ds=320
    )
    assert found[: len(reference)] == reference
    assert 0 <= frames - len(reference) <= 1  # where the reference drops the last frame, we keep it, with
    assert found[len(reference) :] == [int(units[-1])] * (frames - len(reference))  # the label under it


@given(
    rate=st.sampled_from(sorted(RATES)),
    num_samples=st.integers(12_000, 60_000),
    start=st.integers(0, 100),
    crop=st.integers(400, 12_000),
)
def test_crops_of_base_take_the_labels_that_the_reference_takes(rate, num_samples, start, crop):
    source = dataclasses.replace(MFCC, hop=RATES[rate], clusters=10**6)
    units = np.arange(source.count(num_samples))
    start = min(start * 320, (num_samples - crop) // 320 * 320)  # our crops start on a frame, see BatchSampler
    frames = base_frames(crop)
    labels = FrameLabels(source=source, units={"a": units})
    found = labels.at_frames("a", start=start, num_frames=frames, **BASE).tolist()
    reference = reference_targets([*units], start=start, num_samples=crop, num_frames=frames, label_rate=rate, ds=320)
    assert found[: len(reference)] == reference
    assert 0 <= frames - len(reference) <= 1


def test_frames_that_look_at_more_than_labels_do_take_a_later_label_than_the_reference():
    units = np.arange(MFCC.count(16_000))
    found = FrameLabels(source=MFCC, units={"a": units}).at_frames("a", start=0, num_frames=24, hop=640, window=720)
    reference = reference_targets([*units], start=0, num_samples=16_000, num_frames=24, label_rate=100, ds=640)
    assert reference[:3] == [0, 4, 8]  # windows start with the frame's: their centres lie 10 ms before its own
    assert found[:3].tolist() == [1, 5, 9]
