"""What manifests share is found in the earlier one; of copies within one, the first is kept."""

import numpy as np
import pytest

from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.thresholds import CheckConfig


@pytest.fixture
def found(tmp_path, make_manifest):
    """Give a function that checks train, dev, ... made of waveforms and columns, and lists what was found."""

    def check(*parts: dict[str, object]) -> set[tuple[str, str, str]]:
        names = ("train", "dev", "test")[: len(parts)]
        manifests = [make_manifest(tmp_path / name, "m.tsv", **part) for name, part in zip(names, parts, strict=True)]
        report = check_manifests(manifests, names, CheckConfig(), jobs=1)
        return {(finding.id, finding.name, finding.message) for finding in report.findings}

    return check


def test_the_same_samples_within_one_manifest_keep_the_first(found, speech):
    one = speech(1.0)
    assert found({"waveforms": {"a.wav": one, "b.wav": speech(1.0, seed=1), "c.wav": one, "d.wav": one}}) == {
        ("c", "duplicate", "has the same samples as a"),
        ("d", "duplicate", "has the same samples as a"),
    }


def test_copies_with_two_texts_are_said_to_have_them(found, speech):
    one, other = speech(2.0), speech(2.0, seed=1)
    waveforms = {"a.wav": one, "b.wav": one, "c.wav": one, "d.wav": one, "e.wav": other, "f.ogg": other}
    texts = {"a": "ja", "b": "Ja!", "c": "nee", "e": "ja", "f": "nee"}
    said = {
        key: message.endswith(", which has another text")
        for key, _, message in found({"waveforms": waveforms, "text": texts})
    }
    assert said == {"b": False, "c": True, "d": False, "f": True}


def test_the_same_samples_in_two_manifests_leave_the_later_as_it_is(found, speech):
    one, other = speech(1.0), speech(1.0, seed=1)
    train = {"waveforms": {"a.wav": one, "b.wav": one, "c.wav": other}}
    test = {"waveforms": {"x.wav": speech(1.0, seed=2), "y.wav": one, "z.wav": one}}
    assert found(train, {"waveforms": {"d.wav": other}}, test) == {
        ("a", "leaked_audio", "has the same samples as y of test"),
        ("b", "leaked_audio", "has the same samples as y of test"),
        ("z", "duplicate", "has the same samples as y"),
        ("c", "leaked_audio", "has the same samples as d of dev"),
    }


def test_a_louder_copy_is_found_within_and_between_manifests(found, speech):
    one = speech(2.0)
    within = found({"waveforms": {"a.wav": one, "b.ogg": 0.3 * one, "c.wav": speech(2.0, seed=1)}})
    assert [(key, name) for key, name, _ in within] == [("b", "similar")]
    between = found({"waveforms": {"a.wav": one}}, {"waveforms": {"b.ogg": 0.3 * one}})
    assert [(key, name) for key, name, _ in between] == [("a", "leaked_similar")]
    assert next(iter(between))[2].endswith("differ) of b of dev")


def test_a_copy_of_the_same_samples_is_not_called_similar_as_well(found, speech):
    one = speech(2.0)
    names = [(key, name) for key, name, _ in found({"waveforms": {"a.wav": one, "b.wav": one, "c.ogg": one}})]
    assert sorted(names) == [("b", "duplicate"), ("c", "similar")]


def test_silence_is_no_copy_of_silence(found):
    silence = np.zeros(16_000)
    assert {name for _, name, _ in found({"waveforms": {"a.wav": silence, "b.wav": silence}})} == {"silent"}


def test_the_same_text_is_found_between_manifests_only(found, speech):
    train = {
        "waveforms": {f"{key}.wav": speech(1.0, seed=i) for i, key in enumerate("abc")},
        "text": {"a": "Goed zo!", "b": "goed zo", "c": "nee"},
    }
    assert found(train) == set()
    test = {"waveforms": {"x.wav": speech(1.0, seed=9), "y.wav": speech(1.0, seed=10)}, "text": {"x": "goed  zo"}}
    assert found(train, test) == {
        ("a", "leaked_text", "has the same text as x of dev"),
        ("b", "leaked_text", "has the same text as x of dev"),
    }


def test_a_speaker_in_two_manifests_is_found_once(found, speech):
    train = {
        "waveforms": {f"{key}.wav": speech(1.0, seed=i) for i, key in enumerate("abc")},
        "speaker": {"a": "eva", "b": "jan", "c": "jan"},
    }
    test = {"waveforms": {"x.wav": speech(1.0, seed=9), "y.wav": speech(1.0, seed=8)}, "speaker": {"x": "jan"}}
    message = "speaker jan is in several manifests: 2 in train, 1 in dev; b is the first"
    assert found(train, test) == {("b", "leaked_speaker", message)}


def test_a_file_of_two_manifests_is_decoded_once_and_found_in_the_first(tmp_path, make_manifest, speech):
    manifest = make_manifest(tmp_path, "m.tsv", {"a.wav": speech(1.0)})
    seen = []

    def progress(items, total):
        seen.append(total)
        return items

    report = check_manifests([manifest, manifest], ["one", "two"], CheckConfig(), jobs=1, progress=progress)
    assert [(finding.manifest, finding.name) for finding in report.findings] == [(0, "leaked_audio")]
    assert seen == [1]


def test_a_text_in_another_script_and_one_of_another_recording_are_found(tmp_path, make_manifest, speech):
    keys = [f"u{i}" for i in range(8)]
    texts = dict.fromkeys(keys, "вот такой текст") | {"u3": "вот tакой текст", "u5": "текст " * 30}
    waveforms = {f"{key}.wav": speech(1.5, seed=i) for i, key in enumerate(keys)}
    manifest = make_manifest(tmp_path, "m.tsv", waveforms, text=texts)
    config = CheckConfig(scripts=("Cyrillic",), text_rate_texts=5)
    first, second = check_manifests([manifest], ["m"], config, jobs=1).findings
    assert (first.id, first.name, first.message) == ("u3", "script", "its text has t, which is not Cyrillic")
    assert (second.id, second.name) == ("u5", "text_rate")
    assert second.value == pytest.approx(np.log(150 / 13) / 0.1, rel=0.05)
    assert second.message.endswith("8.8 is usual: check that the text matches the audio")
