"""Recordings cut at pauses: where they are known, within the lengths wanted, with an account of what is cut away."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus.segment import (
    Cut,
    cut_recording,
    in_processes,
    segment_manifest,
)
from speechssl.corpus.spans import SegmentConfig
from speechssl.corpus.workers import one_by_one
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ManifestError

SMALL = SegmentConfig(min_s=0.5, max_s=3.0, vad="energy", pad_s=0.1)
SPOKEN_S = [(0.5, 1.5), (2.5, 3.5), (3.8, 4.8), (6.0, 6.2), (9.0, 10.0)]  # pauses of 1, 0.3, 1.2, 2.8 and 2 s


def speech(spoken_s: list[tuple[float, float]], lasts_s: float, rate: int = SAMPLE_RATE, noise: float = 1e-3):
    """Make bursts of modulated noise, in the band of speech, in quiet noise."""
    random = np.random.default_rng(0)
    samples = noise * random.standard_normal(round(lasts_s * rate))
    for start_s, end_s in spoken_s:
        time = np.arange(round(start_s * rate), round(end_s * rate)) / rate
        voice = sum(np.sin(2 * np.pi * 150 * k * time) for k in range(2, 12))
        samples[round(start_s * rate) : round(end_s * rate)] += 0.03 * voice * (1.5 + np.sin(2 * np.pi * 4 * time))
    return samples


@pytest.fixture
def recording(tmp_path) -> Manifest:
    """Give a manifest of one recording of 12 s at 44.1 kHz with five bursts."""
    samples = speech(SPOKEN_S, 12.0, 44_100)
    soundfile.write(tmp_path / "r.flac", samples, 44_100)
    row = Utterance(
        id="r", path="r.flac", num_samples=len(samples), sample_rate=44_100, channels=1, text="all that is said",
        speaker="anna", language="nl", split="train",
    )  # fmt: skip
    return Manifest(root=tmp_path, utterances=(row,))


def test_cuts_fall_into_the_known_pauses_and_what_is_gone_is_counted(recording):
    cut = cut_recording(recording, recording.utterances[0], SMALL)
    assert [row.id for row in cut.utterances] == ["r-00000380", "r-00002396", "r-00008892"]
    for row, (start_s, end_s) in zip(cut.utterances, [(0.5, 1.5), (2.5, 4.8), (9.0, 10.0)], strict=True):
        found_s = row.start / 44_100, (row.start + row.num_samples) / 44_100
        assert start_s - 0.15 <= found_s[0] <= start_s
        assert end_s <= found_s[1] <= end_s + 0.15
        assert (row.path, row.sample_rate, row.file_samples) == ("r.flac", 44_100, 12 * 44_100)
        assert (row.text, row.speaker, row.language, row.split) == (None, "anna", "nl", "train")
    assert (cut.num_short, cut.num_in_speech) == (1, 0)
    assert cut.short_s == pytest.approx(0.2, abs=0.07)
    kept_s = sum(row.duration_s for row in cut.utterances)
    assert kept_s + cut.silence_s + cut.short_s == pytest.approx(12.0)


def test_a_part_of_a_recording_is_cut_into_parts_of_the_same_file(recording):
    whole = recording.utterances[0]
    part = replace(whole, id="p", start=2 * 44_100, num_samples=4 * 44_100, file_samples=whole.num_samples)
    (found,) = cut_recording(recording, part, SMALL).utterances
    assert found.start / 44_100 == pytest.approx(2.4, abs=0.05)
    assert (found.start + found.num_samples) / 44_100 == pytest.approx(4.9, abs=0.05)
    assert (found.id[:2], found.file_samples) == ("p-", whole.num_samples)


def test_shorter_rows_stay_with_their_texts_and_the_order_is_kept(recording, tmp_path):
    soundfile.write(tmp_path / "short.wav", speech([(0.1, 0.9)], 1.0), SAMPLE_RATE)
    short = Utterance(id="s", path="short.wav", num_samples=16_000, sample_rate=16_000, channels=1, text="no")
    soundfile.write(tmp_path / "mute.wav", speech([], 4.0), SAMPLE_RATE)
    mute = replace(short, id="m", path="mute.wav", num_samples=64_000, text=None)
    rows = (short, *recording.utterances, mute)
    done = segment_manifest(replace(recording, utterances=rows), SMALL)
    assert done.manifest.utterances[0] == short
    assert [row.id[0] for row in done.manifest.utterances] == ["s", "r", "r", "r"]
    assert (done.kept, done.dropped_texts, done.cuts["m"].silence_s) == (1, 1, 4.0)
    assert done.summary() == [
        "cut by energy: 2 recordings into 3 utterances, 0.00 h",
        "cut away: 0.00 h of silence, and 0.2 s of speech too short for an utterance, 1 times",
        "cut within speech: 0 times",
        "left out: 1 recordings without enough speech: m",
        "unchanged: 1 that are not longer than an utterance may be",
        "dropped: 1 texts, which belong to whole recordings",
    ]


def test_processes_give_what_one_gives(recording):
    rows = tuple(replace(recording.utterances[0], id=f"r{i}") for i in range(3))
    several = replace(recording, utterances=rows)
    alone = segment_manifest(several, SMALL)
    assert segment_manifest(several, SMALL, work=in_processes(2)) == alone
    assert len(alone.manifest.utterances) == 9


def test_a_bad_recording_stops_or_is_counted(recording, tmp_path):
    (tmp_path / "bad.flac").write_bytes((tmp_path / "r.flac").read_bytes()[:50_000])
    bad = replace(recording.utterances[0], id="bad", path="bad.flac")
    both = replace(recording, utterances=(bad, *recording.utterances))
    with pytest.raises(AudioError, match=r"bad\.flac"):
        segment_manifest(both, SMALL)
    done = segment_manifest(both, SMALL, skip_bad=True)
    assert len(done.errors) == 1
    assert "bad.flac" in done.errors[0]
    assert len(done.manifest.utterances) == 3


def test_ids_that_would_be_shared_are_refused(recording, tmp_path):
    (part, *_) = cut_recording(recording, recording.utterances[0], SMALL).utterances
    short = replace(part, num_samples=44_100)
    with pytest.raises(ManifestError, match=r"r-00000380: is the id of a part and of another row"):
        segment_manifest(replace(recording, utterances=(*recording.utterances, short)), SMALL)


def test_nothing_left_is_an_error(recording, tmp_path):
    soundfile.write(tmp_path / "mute.wav", speech([], 4.0), SAMPLE_RATE)
    mute = Utterance(id="m", path="mute.wav", num_samples=64_000, sample_rate=16_000, channels=1)
    with pytest.raises(ManifestError, match="nothing is left: no speech is as long"):
        segment_manifest(replace(recording, utterances=(mute,)), SMALL)


def test_work_is_done_by_whoever_is_given(recording):
    asked = []

    def work(rows, do):
        asked.extend(rows)
        return one_by_one(
            rows, lambda row: Cut(utterances=(row,), silence_s=0, short_s=0, num_short=0, num_in_speech=0)
        )

    done = segment_manifest(recording, SMALL, work=work)
    assert asked == list(recording.utterances)
    assert done.manifest == recording
