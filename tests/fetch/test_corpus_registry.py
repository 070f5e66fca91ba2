"""Which corpora there are: the package's own, those of a file, those of installed packages."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.corpus.fetch import CORPORA, all_corpora, corpora_named, read_corpora
from speechssl.data.manifest import read_manifest
from speechssl.errors import CorpusError
from tests.fetch.recipes import FOLDER

HEAD = """from dataclasses import dataclass
from speechssl.corpus.fetch import ClipCollector, Corpus, Spoken

def find(folder):
    found = ClipCollector()
    for path in sorted(folder.glob("*.wav")):
        found.add(path, f"audio/{path.name}", Spoken("word"), speaker="ann", language="en")
    return found.findings()

def corpus(name):
    return Corpus(name=name, summary="one word", licence="CC0-1.0", find=find, layout="*.wav")

"""
ONE = HEAD + 'CORPORA = (corpus("one"),)\n'
TWO = HEAD + 'CORPORA = (corpus("one"), corpus("other"))\n'


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(code: str, name: str = "mine.py") -> Path:
        (tmp_path / name).write_text(code, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that installs a package of one module, with an entry point of its corpora."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(name: str, code: str, value: str = "CORPORA") -> None:
        info = tmp_path / f"site/{name}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[speechssl.corpora]\nany = {name}:{value}\n")
        (tmp_path / f"site/{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)  # an earlier test's

    return install


def test_a_file_s_only_corpus_needs_no_name(
    write: Callable[..., Path], write_audio: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "speech/a.wav")
    assert main(["corpus", str(write(ONE)), "--source", str(tmp_path / "speech"), "--out", str(tmp_path / "out")]) == 0
    assert "pool.tsv  1 utterances" in capsys.readouterr().out
    (row,) = read_manifest(tmp_path / "out/pool.tsv").utterances
    assert (row.id, row.text, row.speaker) == ("a", "word", "ann")


def test_of_a_file_s_several_corpora_one_has_to_be_named(
    write: Callable[..., Path], write_audio: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "speech/a.wav")
    path, rest = str(write(TWO)), ["--source", str(tmp_path / "speech"), "--out", str(tmp_path / "out")]
    assert main(["corpus", path]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["one", "other"]
    assert main(["corpus", path, *rest]) == 2
    assert "defines 2 corpora" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["corpus", f"{path}:other", *rest]) == 0
    assert '"name": "other"' in (tmp_path / "out/corpus.json").read_text()


@pytest.mark.parametrize("arguments", [["festvox-ru"], ["FILE:one"], ["FILE", "--source", "x"]])
def test_without_a_folder_to_fill_nothing_is_prepared(
    write: Callable[..., Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(ONE))
    assert main(["corpus", *(word.replace("FILE", path) for word in arguments)]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("CORPUS = 1\n", r"mine.py: defines no CORPORA; expected `CORPORA = \("),
        ("\nimport nothing_of_this_name\n", r"mine.py:2: cannot be imported \(ModuleNotFoundError: .*; fix it"),
        ("x = (\n", r"mine.py: cannot be imported \(SyntaxError: .*line 1"),
        ("raise SystemExit(0)\n", r"mine.py:1: cannot be imported \(SystemExit"),
        (HEAD + "CORPORA = (corpus('one'))\n", r"mine.py: expected CORPORA to be a tuple of Corpus, found Corpus"),
        ("CORPORA = ('one',)\n", "tuple of Corpus, found str in it"),
        ("CORPORA = ()\n", "tuple of Corpus, found nothing in it"),
        (HEAD + "CORPORA = (corpus('one'), corpus('one'))\n", "two corpora are called one, expected a name for each"),
        (
            HEAD + "CORPORA = (Corpus(name='x', summary='', licence='', find=find, packages='x-sounds'),)\n",
            "expected packages to be a tuple, found 'x-sounds'",
        ),
    ],
)
def test_a_file_that_defines_no_corpora_is_named(write: Callable[..., Path], code: str, message: str) -> None:
    path = write(code)
    with pytest.raises(CorpusError, match=message):
        corpora_named(str(path))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("festvox", "no corpus is called 'festvox'; expected one of festvox-ru, pocketsphinx, .* FILE.py:NAME"),
        ("nowhere/x.py", "nowhere/x.py: no such file; name a Python file that defines CORPORA"),
        ("nowhere/x.py:name", "nowhere/x.py: no such file"),
        (f"{FOLDER}/fillets.py:nl", r"fillets.py: defines no corpus called 'nl', found fillets-cs, fillets-nl"),
        ("asterisk", "moved to recipes/corpora/asterisk.py of the repository; .*asterisk.py:NAME in place of asterisk"),
        ("fillets-nl", "those of fillets have moved to recipes/corpora/fillets.py"),
        ("tuxpaint", "moved to recipes/corpora/tuxpaint.py"),
    ],
)
def test_a_name_of_nothing_is_answered_with_what_there_is(which: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        corpora_named(which)


def test_a_file_may_have_dataclasses_and_a_module_s_name(write: Callable[..., Path]) -> None:
    code = "from __future__ import annotations\n" + ONE + "\n@dataclass\nclass Row:\n    name: str | None = None\n"
    assert list(read_corpora(write(code, "json.py"))) == ["one"]
    assert "decoder" in vars(__import__("json"))


def test_an_installed_package_adds_corpora(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install("speech_of_somebody", TWO)
    assert list(all_corpora()) == [*CORPORA, "one", "other"]
    assert [corpus.name for corpus in corpora_named("other")] == ["other"]
    assert main(["corpus"]) == 0
    printed = capsys.readouterr()
    assert "one word; licence CC0-1.0; needs --source: *.wav" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("import nothing_of_this_name\n", "CORPORA", "of broken cannot be imported .*fix or remove the package"),
        (ONE, "NOTHING", "of broken cannot be imported"),
        (ONE, "find", "of broken: expected CORPORA to be a tuple of Corpus, found function"),
        (ONE.replace('"one"', '"librispeech"'), "CORPORA", "of broken: librispeech is also the name of another corpus"),
    ],
)
def test_a_package_that_fails_is_named_and_left_out(
    install: Callable[..., None], code: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", code, value)
    assert all_corpora() == CORPORA
    capsys.readouterr()
    with pytest.raises(CorpusError, match="no corpus is called 'x'"):
        corpora_named("x")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: the corpora any ")
    assert re.search(message, line)


def test_the_package_s_own_corpora_need_no_other_package(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken_too", "raise RuntimeError\n")
    assert corpora_named("librispeech") == (CORPORA["librispeech"],)
    assert capsys.readouterr().err == ""
