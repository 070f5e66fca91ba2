"""Each finding comes up on a file made for it, and on no other."""

import dataclasses
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.corpus.check import checking as check
from speechssl.corpus.check.checking import Report, check_manifests
from speechssl.corpus.check.findings import FINDINGS
from speechssl.corpus.check.measure import Recording, measure_recording
from speechssl.corpus.check.repair import write_repaired
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

RATE = 16_000
CONFIG = CheckConfig(max_duration_s=3.0)

EXPECTED = {
    "clean": (),
    "clean-stereo": (),
    "clean-22050": (),
    "clean-loud": (),
    "clean-mp3": (),
    "missing": ("unreadable",),
    "empty": ("unreadable",),
    "words": ("unreadable",),
    "no-samples": ("unreadable",),
    "crash": ("crashed",),
    "cut-wav": ("truncated",),
    "cut-flac": ("truncated",),
    "listed-longer": ("truncated",),
    "bytes-lost": ("damaged",),
    "listed-shorter": ("header",),
    "listed-rate": ("header",),
    "listed-channels": ("header",),
    "nan": ("not_finite",),
    "infinite": ("not_finite",),
    "zeros": ("silent",),
    "noise-floor": ("silent",),
    "clipped": ("clipped",),
    "clipped-8-bit": ("clipped",),
    "offset": ("dc_offset",),
    "8000": ("rate",),
    "telephone": ("narrowband",),
    "two-talkers": ("channels",),
    "upside-down": ("cancelling",),
    "short": ("short",),
    "long": ("long",),
    "same": ("duplicate",),
    "coded": ("similar",),
}


def telephone(waveform: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(len(waveform), 1 / RATE) > 3_900] = 0
    return np.fft.irfft(spectrum)


def write_files(folder: Path, speech) -> None:
    """Write a file for each name, each of another recording where it does not say otherwise."""

    def write(name: str, waveform: np.ndarray, rate: int = RATE, **kind: str) -> None:
        soundfile.write(str(folder / name), waveform, rate, **kind)

    new = (speech(1.0, seed=seed) for seed in range(100))
    original = speech(1.5, seed=1000)
    write("clean.wav", original)
    write("clean-stereo.wav", np.stack([(one := next(new)), 0.8 * one], axis=1))
    write("clean-22050.wav", speech(1.0, seed=1001, rate=22_050), 22_050)
    write("clean-loud.wav", (one := next(new)) / np.abs(one).max())
    write("clean-mp3.mp3", next(new))
    write("bytes-lost.mp3", next(new))
    whole = (folder / "bytes-lost.mp3").read_bytes()
    (folder / "bytes-lost.mp3").write_bytes(whole[:2_000] + bytes(20) + whole[2_020:])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.wav").write_text("no sound at all")
    write("no-samples.wav", np.zeros(0))
    for suffix in ("wav", "flac"):
        write(f"cut-{suffix}.{suffix}", next(new))
        whole = (folder / f"cut-{suffix}.{suffix}").read_bytes()
        (folder / f"cut-{suffix}.{suffix}").write_bytes(whole[: len(whole) // 2])
    for name in ("crash", "listed-longer", "listed-shorter", "listed-rate", "listed-channels"):
        write(f"{name}.wav", next(new))
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        one = next(new)
        one[100] = value
        write(f"{name}.wav", one, subtype="FLOAT")
    write("zeros.wav", np.zeros(RATE))
    write("noise-floor.wav", np.random.default_rng(0).normal(0, 1e-4, RATE))
    write("clipped.wav", np.clip(6 * next(new), -1, 1))
    write("clipped-8-bit.wav", np.clip(6 * next(new), -1, 1), subtype="PCM_U8")
    write("offset.wav", next(new) + 0.03)
    write("8000.wav", speech(1.0, seed=1002, rate=8_000), 8_000)
    write("telephone.wav", telephone(next(new)))
    write("two-talkers.wav", np.stack([next(new), next(new)], axis=1))
    write("upside-down.wav", np.stack([(one := next(new)), -0.95 * one], axis=1))
    write("short.wav", next(new)[:1_000])
    write("long.wav", speech(3.5, seed=1003))
    write("same.flac", soundfile.read(str(folder / "clean.wav"), dtype="int16")[0])
    write("coded.ogg", 0.5 * original)


def listed(folder: Path) -> list[Utterance]:
    """List the files as they are, or wrongly where the name says so."""
    rows = []
    for name in EXPECTED:
        path = next(folder.glob(f"{name}.*"), folder / f"{name}.wav")
        row = Utterance(id=name, path=path.name, num_samples=RATE, sample_rate=RATE, channels=1)
        if name not in ("missing", "empty", "words", "no-samples", "cut-wav", "cut-flac"):
            with soundfile.SoundFile(str(path)) as file:
                row = dataclasses.replace(
                    row, num_samples=file.frames, sample_rate=file.samplerate, channels=file.channels
                )
        match name:
            case "listed-longer":
                row = dataclasses.replace(row, num_samples=row.num_samples + 1)
            case "listed-shorter":
                row = dataclasses.replace(row, num_samples=row.num_samples - 1)
            case "listed-rate":
                row = dataclasses.replace(row, sample_rate=22_050)
            case "listed-channels":
                row = dataclasses.replace(row, channels=2)
        rows.append(row)
    return rows


def measure_or_crash(recording: Recording, config: CheckConfig):
    if Path(recording.place.path).stem == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return measure_recording(recording, config)


@pytest.fixture(scope="module")
def report(tmp_path_factory, speech) -> Report:
    folder = tmp_path_factory.mktemp("findings")
    write_files(folder, speech)
    manifest = Manifest(root=folder, utterances=tuple(listed(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "measure_recording", measure_or_crash)
        return check_manifests([manifest], ["m.tsv"], CONFIG, jobs=2)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_has_the_findings_it_was_made_for_and_no_others(report, name):
    found = [finding for finding in report.findings if finding.id == name]
    assert tuple(finding.name for finding in found) == EXPECTED[name], found


def test_every_finding_of_a_file_is_among_those_above():
    within_one = {name for name in FINDINGS if not name.startswith("leaked_")} - {"text_rate", "script"}
    assert within_one == {name for names in EXPECTED.values() for name in names}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("missing", None, "no such file; correct the manifest or its root"),
        ("crash", None, "the worker was ended by SIGKILL while decoding it; convert or remove it"),
        ("listed-longer", 16_000, "16000 of 16001 samples could be decoded; copy it again"),
        ("listed-shorter", 16_000, "the manifest says samples 15999, the file has 16000"),
        ("listed-rate", 16_000, "the manifest says sample rate 22050, the file has 16000"),
        ("listed-channels", 1, "the manifest says channels 2, the file has 1"),
        ("bytes-lost", None, "its decoder reports: "),
        ("nan", 1, "1 samples are NaN or infinite"),
        ("zeros", -200, "its peak is -200 dB of full scale"),
        ("offset", pytest.approx(0.03, abs=1e-3), "its mean is 0.030 of full scale, expected 0"),
        ("8000", 8_000, "recorded at 8000 Hz, expected at least 16000"),
        ("telephone", pytest.approx(3_900, abs=200), "its rate promises 8000"),
        ("two-talkers", pytest.approx(0.7, abs=0.1), r"averaging its channels loses \d\d % of their energy"),
        ("short", 0.0625, "lasts 0.062 s, expected at least 0.1"),
        ("long", 3.5, "lasts 3.5 s, expected at most 3"),
        ("same", None, "has the same samples as clean"),
        ("coded", pytest.approx(0.05, abs=0.1), "sounds like a copy .* of clean"),
    ],
)
def test_a_finding_says_what_was_found(report, name, value, message):
    (found,) = [finding for finding in report.findings if finding.id == name]
    assert found.value == value
    assert re.search(message, found.message), found.message


def test_findings_come_in_the_order_of_the_manifest(report):
    ids = list(EXPECTED)
    places = [ids.index(finding.id) for finding in report.findings]
    assert places == sorted(places)


def test_any_number_of_processes_finds_the_same(tmp_path, speech):
    write_files(tmp_path, speech)
    manifest = Manifest(root=tmp_path, utterances=tuple(listed(tmp_path)))
    one, three = (check_manifests([manifest], ["m.tsv"], CONFIG, jobs=jobs) for jobs in (1, 3))
    assert one == three


def a_part(name: str, start: int, num_samples: int, *, of: int = 48_000, rate: int = 16_000) -> Utterance:
    return Utterance(
        id=name, path="long.flac", num_samples=num_samples, sample_rate=rate, channels=1, start=start, file_samples=of
    )


def test_parts_of_a_file_are_judged_by_themselves_and_are_no_copies_of_each_other(tmp_path, speech):
    waveform = speech(3.0)
    waveform[16_000:20_000] = 0
    soundfile.write(str(tmp_path / "long.flac"), waveform, 16_000)
    rows = (
        a_part("second", 20_000, 28_000),
        a_part("first", 0, 16_000),
        a_part("silent", 16_000, 4_000),
        a_part("first-again", 0, 16_000),
        a_part("of-another-length", 32_000, 15_500, of=48_001),
        a_part("of-another-rate", 22_000, 9_000, rate=8_000),
        a_part("beyond", 40_000, 9_000, of=49_000),
    )
    report = check_manifests([Manifest(root=tmp_path, utterances=rows)], ["m.tsv"], CONFIG, jobs=1)
    found = {(finding.id, finding.name): finding.message for finding in report.findings}
    assert found == {
        ("silent", "silent"): "its peak is -200 dB of full scale",
        ("first-again", "duplicate"): "has the same samples as first",
        ("of-another-length", "header"): "the manifest says samples 48001, the file has 48000",
        ("of-another-rate", "header"): "the manifest says sample rate 8000, the file has 16000",
        ("beyond", "truncated"): "8000 of 9000 samples could be decoded; copy it again",
        ("beyond", "header"): "the manifest says samples 49000, the file has 48000",
    }
    (written,) = write_repaired(tmp_path / "clean.tsv", report)
    assert (written.kept, written.removed, written.corrected) == (4, 3, 1)
    kept = {row.id: row for row in read_manifest(tmp_path / "clean.tsv").utterances}
    assert list(kept) == ["second", "first", "first-again", "of-another-length"]
    assert kept["of-another-length"] == a_part("of-another-length", 32_000, 15_500)


def test_two_manifests_of_one_name_are_refused(report):
    with pytest.raises(ManifestError, match=r"different names, found a\.tsv, a\.tsv"):
        check_manifests(report.manifests * 2, ["a.tsv", "a.tsv"], CONFIG)
