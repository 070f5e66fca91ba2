"""Every block of code in README and docs/ runs: in order, each page in a folder of its own, on small data.

Commands of `speechssl` run in this process, with what makes them small (`small.py`); other commands run in bash, where
`speechssl` is a script. A Python block with a title is a file; others of a page share their names.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from speechssl.__main__ import main
from tests.docs.small import ROOT, smaller

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^([ ]*)```([^\n]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->\s*\Z", re.DOTALL)
LANGUAGES = {"bash", "python", "text", "yaml"}
TRAIN_FROM_NOTHING = ("README.md", "tutorial.md")  # pages that make the models that others begin with
MAY_FIND_ERRORS = ("manifest check",)  # commands whose status 1 is an answer


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    title: str  # of a file, if it is one
    code: str
    reason: str  # why it is not run


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match[2].strip().partition(" ")
        title = re.search(r'title="(.+?)"', rest)
        reason = NOT_RUN.search(text[: match.start()])
        found.append(Block(language, title[1] if title else "", match[3], reason[1] if reason else ""))
    return found


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page.read_text("utf-8")) if block.language != "text" and not block.reason]


def commands(code: str) -> Iterator[str]:
    """Yield the commands of a block, continued lines joined."""
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def words_of(command: str) -> list[str]:
    """Return the arguments of a `speechssl` command as bash expands them."""
    script = f'speechssl() {{ printf "%s\\0" "$@"; }}\n{command}\n'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return said.split("\0")[:-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page):
    found = {block.language for block in blocks(page.read_text("utf-8"))}
    assert found <= LANGUAGES, f"expected blocks of {LANGUAGES}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_run(page, workplace, fetched, monkeypatch):
    if page.name in TRAIN_FROM_NOTHING:
        shutil.rmtree(workplace / "runs")
    stand_in = workplace / "bin/speechssl"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m speechssl "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
    names: dict[str, Any] = {"__name__": "page"}
    for block in runnable(page):
        if block.title:
            Path(block.title).write_text(block.code)
        elif block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)
        else:
            for command in commands(block.code):
                run_command(command, fetched)


def run_command(command: str, fetched: Callable[[Path], None]) -> None:
    if not command.startswith("speechssl ") or re.search(r"[|<>;&]", command):
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
        return
    arguments = words_of(command)
    if arguments[0] == "corpus" and "--out" in arguments and "--source" not in arguments:
        fetched(Path(arguments[-1]))
        return
    status = main(smaller(arguments))
    may_find_errors = " ".join(arguments).startswith(MAY_FIND_ERRORS)
    assert status == 0 or (status == 1 and may_find_errors), f"status {status}: {command}"


def test_blocks_are_found_with_their_titles_and_reasons():
    text = 'a\n<!-- not run: needs\na cluster -->\n```bash\nsrun x\n```\n\n```python title="a.py"\nx = 1\n```\n'
    assert blocks(text) == [Block("bash", "", "srun x\n", "needs\na cluster"), Block("python", "a.py", "x = 1\n", "")]
    assert list(commands("a \\\n  b  # c\n# d\n\ne\n")) == ["a    b  # c", "e"]
    assert words_of("speechssl a 'b c' {d,e}=1  # f") == ["a", "b c", "d=1", "e=1"]
