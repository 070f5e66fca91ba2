"""The hooks of a commit are the checks of `make check`, with the versions of .ci/requirements."""

import importlib.metadata
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MODULES = {"codespell_lib": "codespell"}  # distributions that are not called like their module


def tools(text: str) -> list[str]:
    """List what a text runs in .venv, options left out but for ruff's command."""
    return re.findall(r"\.venv/bin/python -m (ruff \w+|\w+)", text)


def test_hooks_and_make_check_run_the_same_tools_of_the_same_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "a hook from elsewhere would pin a version of its own"
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert tools("\n".join(entries)) == tools(check)
    assert len(tools(check)) == len(entries) == len(check.splitlines())


def test_every_tool_of_the_checks_is_pinned_and_an_extra_of_developers():
    pinned = (ROOT / ".ci/requirements/tools.txt").read_text()
    extra = [line for line in importlib.metadata.requires("speechssl") or [] if "extra" in line and '"dev"' in line]
    for tool in tools((ROOT / ".pre-commit-config.yaml").read_text()):
        name = MODULES.get(tool, tool.split()[0])
        assert re.search(rf"^{name}==", pinned, re.MULTILINE), name
        assert any(re.match(rf"{name}\b", line) for line in extra), name
