"""Atomic writes of files and folders, which only one module does."""

import ast
import os
from pathlib import Path

import pytest

import speechssl
from speechssl.atomic import Draft, atomic, write_atomically

SOURCES = Path(speechssl.__file__).parent
RECIPES = Path(__file__).parents[1] / "recipes"
OWN_RENAMES = {  # what is renamed by other hands than `atomic`, and why
    "atomic.py": "does it for all",
    "corpus/scan_cache.py": "what a killed build had found is read by the next",
    "stages/convert.py": "files are checked before they get their names, and several get theirs together",
    "stages/record.py": "moves a folder aside that is whole",
    "train/checkpoint.py": "ranks share a folder, and its name waits until the disk has it",
}


def renames(path: Path) -> list[int]:
    """Return the lines on which a source renames a file: `a.replace(b)`, which strings and dataclasses have not."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Attribute)]
    return [
        call.lineno
        for call in found
        if call.func.attr in ("rename", "renames")
        or (call.func.attr == "replace" and len(call.args) == 1 and not call.keywords)
        or ast.unparse(call.func) in ("os.replace", "shutil.move")
    ]


def test_a_file_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "text"
    write_atomically(path, "old")
    seen = []
    replace = os.replace

    def look_then_replace(self: Path, target: Path) -> None:
        seen.append(path.read_text())
        replace(self, target)

    monkeypatch.setattr(Path, "replace", look_then_replace)
    write_atomically(path, "new")
    assert (seen, path.read_text()) == (["old"], "new")


@pytest.mark.parametrize("names_its_file", [False, True])
def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path, monkeypatch, names_its_file):
    def refuse(path, *_, **__):
        raise OSError(30, "Read-only file system", *([str(path)] if names_its_file else []))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match=r"Read-only file system") as caught:
        write_atomically(tmp_path / "out.tsv", "text")
    assert caught.value.filename == str(tmp_path / "out.tsv")


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "below" / "out"
    if before is not None:
        write_atomically(path, before)
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert (path.read_text() if path.exists() else None) == before
    assert [*path.parent.iterdir()] == ([] if before is None else [path])


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    def fill(folder: Path, *names: str | None) -> None:
        folder.mkdir()
        for name in names:
            (folder / name).write_text("x")  # not a name: a TypeError

    with pytest.raises(TypeError), atomic(tmp_path / "out") as temporary:
        fill(temporary, "a", None)
    assert [*tmp_path.iterdir()] == []
    with atomic(tmp_path / "out") as temporary:
        fill(temporary, "a", "b")
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b"}
    with pytest.raises(OSError, match="not empty") as caught, atomic(tmp_path / "out") as temporary:
        fill(temporary, "c")
    assert caught.value.filename == str(tmp_path / "out")
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "a", "b"}


def test_two_that_write_one_file_do_not_meet_and_any_name_fits(tmp_path):
    path = tmp_path / ("ᚠ" * 80 + ".json")  # 245 bytes
    first, second = Draft(path), Draft(path)
    for draft in (first, second):
        draft.temporary.write_text(str(draft is first))
    second.publish()
    first.drop()
    assert ([*tmp_path.iterdir()], path.read_text()) == ([path], "False")


def test_a_file_gets_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "out", "")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("root", [SOURCES, RECIPES], ids=["package", "recipes"])
def test_nothing_else_renames_by_hand(root):
    found = {path.relative_to(root).as_posix(): lines for path in root.rglob("*.py") if (lines := renames(path))}
    assert found.keys() == (OWN_RENAMES.keys() if root is SOURCES else set()), found
