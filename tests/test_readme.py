"""The README says what is there: every file is on its map, and the help text is the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import speechssl

ROOT = Path(__file__).parents[1]
PACKAGE = Path(speechssl.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_file_map_names_every_module():
    modules = {f"speechssl/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    mapped = set(re.findall(r"^\| `(speechssl/\S+\.py)` \|", README, flags=re.MULTILINE))
    assert mapped == {module for module in modules if not module.endswith("__init__.py")}


@pytest.mark.parametrize("arguments", [[], ["pretrain"], ["manifest"]])
def test_the_help_shown_is_the_help_printed(arguments):
    environment = os.environ | {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "speechssl", *arguments, "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    assert printed.strip() in README


def test_the_visible_top_level_is_the_promised_one():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    visible = {path.split("/")[0] for path in tracked if not path.startswith(".")}
    promised = {"speechssl", "recipes", "manifests", "tests", "setup.py", "README.md", "pyproject.toml", "Makefile"}
    assert visible == promised | {"docs", "findings", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}
