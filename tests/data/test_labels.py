"""Frame labels, and how they line up with the frames of an encoder."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.labels import FrameLabels, LabelSource, read_labels, write_labels
from speechssl.data.manifest import Manifest, Utterance
from speechssl.errors import LabelError

MFCC = LabelSource(clusters=100, hop=160, window=400, features="mfcc", kmeans="abc")


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
    assert found.source == MFCC
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
        LabelError, match=r"x\.tsv: 4 utterances of the manifest have no labels: b, c, d; make the labels"
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


HEADER = '{"clusters": 100, "hop": 160, "window": 400, "features": "mfcc", "kmeans": "abc"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\na\t0 1\nb\t3 100\n", r"l\.tsv:3: b has units 3 to 100, expected 0 to 99"),
        (f"{HEADER}\na\t-1 1\n", r"l\.tsv:2: a has units -1 to 1, expected 0 to 99"),
        (f"{HEADER}\na\t0 x\n", r"l\.tsv:2: expected `id<TAB>units`, found 'a\\t0 x'"),
        ("a\t0 1\n", r"l\.tsv:1: expected a JSON header"),
        ('{"clusters": 100}\na\t0 1\n', r"l\.tsv:1: expected a JSON header"),
        ("[1]\na\t0 1\n", r"l\.tsv:1: expected a JSON header"),
        ("", r"l\.tsv:1: expected a JSON header"),
        (None, r"l\.tsv: cannot read labels \(No such file or directory\); run `speechssl cluster`"),
    ],
)
def test_a_label_file_that_does_not_parse_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_labels(tmp_path / "l.tsv")
