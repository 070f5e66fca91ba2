"""A second build reads what changed and nothing else, and gives what a fresh one gives."""

import json
import os
import random
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.corpus import building as build_module
from speechssl.corpus import finding
from speechssl.corpus.building import Built, build
from speechssl.corpus.scan_cache import scan_cache_beside
from speechssl.errors import AudioError, ManifestError


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files for settled that were written just now."""
    monkeypatch.setattr(finding, "_SETTLED_NS", 0)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory, write_wav: Callable[..., Path]) -> list[Path]:
    """Write five sounds of different lengths, each as wav and flac, and one that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(5):
        write_wav(folder / f"{i}.wav", 400 + 100 * i)
        write_wav(folder / f"{i}.flac", 400 + 100 * i)
    (folder / "bad.flac").write_bytes(b"no sound")
    return sorted(folder.iterdir())


@pytest.fixture
def speech(tmp_path: Path, sounds: list[Path]) -> Path:
    """Lay out four files and two archives of three members each."""
    folder = tmp_path / "speech"
    (folder / "sub").mkdir(parents=True)
    for i in range(4):
        shutil.copy(sounds[i], folder / f"sub/{i}{sounds[i].suffix}")
    for name in ("x.tar", "sub/y.tar"):
        pack(folder / name, sounds[4:7])
    return folder


def pack(path: Path, files: list[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, f"{file.stem}-{file.suffix[1:]}{file.suffix}")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list of the paths whose headers are read."""
    seen: list[str] = []
    real = build_module.read_header

    def note(place):
        seen.append(place.path)
        return real(place)

    monkeypatch.setattr(build_module, "read_header", note)
    return seen


def built(speech: Path, **options: object) -> Built:
    return build([str(speech)], scan_cache=scan_cache_beside(speech.parent / "m.tsv"), **options)


def test_a_second_build_reads_nothing(speech, read):
    first = built(speech)
    assert len(read) == 10
    again = built(speech)
    assert len(read) == 10
    assert again.manifest == first.manifest
    assert (first.reused, again.reused) == (0, 6)
    assert built(speech, fresh=True).reused == 0
    assert len(read) == 20


def test_a_second_build_reads_what_was_added_or_changed(speech, read, sounds):
    built(speech)
    read.clear()
    shutil.copy(sounds[4], speech / "new.flac")
    shutil.copy(sounds[6], speech / "sub/0.flac")
    pack(speech / "x.tar", sounds[2:4])
    (speech / "sub/y.tar").rename(speech / "z.tar")
    again = built(speech)
    paths = [str(speech / name) for name in ("new.flac", "sub/0.flac", *["x.tar"] * 2, *["z.tar"] * 3)]
    assert sorted(read) == sorted(paths)
    assert again.manifest == build([str(speech)]).manifest
    assert again.reused == 3


def test_the_same_size_and_another_time_is_another_file(speech, read):
    built(speech)
    read.clear()
    path = speech / "sub/1.wav"
    content = path.read_bytes()
    path.write_bytes(content[:24] + (8000).to_bytes(4, "little") + (16_000).to_bytes(4, "little") + content[32:])
    again = built(speech)
    assert read == [str(path)]
    assert next(row for row in again.manifest.utterances if row.path == "sub/1.wav").sample_rate == 8000


def test_a_file_that_may_change_again_within_a_tick_is_not_kept(speech, read, monkeypatch):
    monkeypatch.setattr(finding, "_SETTLED_NS", 10**12)
    built(speech)
    assert built(speech).reused == 0


def test_bad_files_are_reported_every_time(speech, sounds, read):
    shutil.copy(sounds[-1], speech / "bad.flac")
    pack(speech / "x.tar", [sounds[4], sounds[-1]])
    first = built(speech, skip_bad=True)
    again = built(speech, skip_bad=True)
    assert [str(error) for error in again.errors] == [str(error) for error in first.errors]
    assert len(again.errors) == 2
    assert again.manifest == first.manifest


def test_other_suffixes_are_another_build(speech):
    built(speech)
    only = built(speech, suffixes=(".wav",))
    assert only.reused == 0
    assert only.manifest == build([str(speech)], suffixes=(".wav",)).manifest


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]\n", b"[2, 3", b"{}\n" * 3],
    ids=["empty", "binary", "other", "cut", "objects"],
)
def test_a_side_file_that_does_not_parse_is_as_none(speech, content):
    first = built(speech)
    path = scan_cache_beside(speech.parent / "m.tsv")
    head = path.read_bytes().split(b"\n")[0] + b"\n"
    for written in (content, head + content):
        path.write_bytes(written)
        assert built(speech).manifest == first.manifest


def test_values_that_cannot_be_are_not_taken(speech):
    first = built(speech)
    path = scan_cache_beside(speech.parent / "m.tsv")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for i, value in enumerate(([0, 1, 1], [1, 1], "x", None, [[1], {}], [[], {}, 3]), start=1):
        lines[i][2] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert built(speech).manifest == first.manifest


def test_a_build_that_was_stopped_goes_on(speech, sounds, read):
    shutil.copy(sounds[-1], speech / "sub/3.bad.flac")
    with pytest.raises(AudioError, match=r"3\.bad\.flac"):
        built(speech, workers=1)
    (speech / "sub/3.bad.flac").unlink()
    before = len(read)
    again = built(speech)
    assert again.reused >= 3
    assert len(read) < before + 10
    assert again.manifest == build([str(speech)]).manifest
    assert [path.name for path in speech.parent.iterdir() if "part" in path.name] == []


def test_stopped_twice_it_still_knows_what_it_read_the_first_time(speech, sounds, read):
    built(speech)
    shutil.copy(sounds[-1], speech / "a.flac")
    for _ in range(2):
        with pytest.raises(AudioError, match=r"a\.flac"):
            built(speech, workers=1)
    (speech / "a.flac").unlink()
    assert built(speech).reused == 6


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_whatever_happens_to_the_tree_the_manifest_is_that_of_a_fresh_build(speech, sounds, seed):
    random_ = random.Random(seed)
    for step in range(15):
        files = sorted(path for path in speech.rglob("*") if path.is_file())
        path = random_.choice(files)
        match random_.randrange(5):
            case 0:
                path.unlink()
            case 1 if path.suffix != ".tar":
                path.write_bytes(random_.choice([each for each in sounds if each.suffix == path.suffix]).read_bytes())
            case 2:
                pack(speech / f"{random_.choice('xyz')}.tar", random_.sample(sounds, random_.randrange(1, 4)))
            case 3:
                path.rename(path.with_name(f"moved{step}{path.suffix}"))
            case _:
                shutil.copy(random_.choice(sounds), speech / f"new{step}.flac")
        found = built(speech, skip_bad=True)
        fresh = build([str(speech)], skip_bad=True)
        assert found.manifest == fresh.manifest
        assert sorted(map(str, found.errors)) == sorted(map(str, fresh.errors))
        assert found.passed_over == fresh.passed_over


def test_a_full_disk_leaves_the_old_manifest(speech, tmp_path, sounds, capsys):
    out = tmp_path / "m.tsv"
    arguments = ["manifest", "build", str(speech), "-o", str(out)]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for i in range(40):
        shutil.copy(sounds[0], speech / f"{'long' * 20}{i}.flac")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # Python ignores the signal, so that writes fail
    try:
        status = main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert "File too large" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and "part" not in path.name}
    assert after == before
    assert main(arguments) == 0
    assert len(out.read_text().splitlines()) == 51


def test_a_folder_that_cannot_be_written_to_is_named(speech, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ManifestError, match=r"file/\.m\.tsv\.built: cannot be written"):
        build([str(speech)], scan_cache=scan_cache_beside(tmp_path / "file/m.tsv"))


def test_the_command_says_what_it_did(speech, tmp_path, capsys):
    (speech / "notes.md").write_text("x")
    arguments = ["manifest", "build", str(speech), "-o", str(tmp_path / "m.tsv")]
    assert main(arguments) == 0
    assert "passed over: 1 .md\n" in capsys.readouterr().out
    first = (tmp_path / "m.tsv").read_bytes()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "10 utterances" in printed
    assert "not read again, as unchanged: 6 files\n" in printed
    assert (tmp_path / "m.tsv").read_bytes() == first
    assert main([*arguments, "--fresh", "--no-archives"]) == 0
    printed = capsys.readouterr().out
    assert "passed over: 2 .tar, 1 .md\n" in printed
    assert "unchanged" not in printed
    os.truncate(speech / "x.tar", 700)
    assert main(arguments) == 2
    assert "x.tar: " in capsys.readouterr().err
