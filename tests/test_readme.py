"""The visible top level of the repository is the promised one. What README and docs/ say: tests/docs."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_visible_top_level_is_the_promised_one():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    visible = {path.split("/")[0] for path in tracked if not path.startswith(".")}
    promised = {"speechssl", "recipes", "manifests", "tests", "setup.py", "README.md", "pyproject.toml", "Makefile"}
    promised |= {"docs", "mkdocs.yml", "findings", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"}
    assert visible == promised
