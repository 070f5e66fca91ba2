"""The reference is complete, links lead somewhere, and README stays short."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import speechssl
from speechssl.cli.commands import COMMANDS
from speechssl.config import from_dict, to_dict
from tests.docs.small import ROOT

PACKAGE = Path(speechssl.__file__).parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^()\s]+)\)")
SOURCES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))


def module(name: str) -> ModuleType:
    """Import a file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    return module("generated")


@pytest.fixture(scope="module")
def links() -> ModuleType:
    return module("links")


def test_every_command_has_its_help_in_the_reference(generated):
    names = [name for name, _ in generated.command_names()]
    assert set(COMMANDS.table) == {name.split()[0] for name in names}
    page = generated.pages()["reference/commands.md"]
    assert re.findall(r"^## (.+) \{#", page, re.MULTILINE) == names
    environment = os.environ | {"COLUMNS": "96", "TERMINAL_WIDTH": "96", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "speechssl", "lm", "build", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.strip() in page


def test_every_key_of_a_recipe_is_in_the_reference(generated):
    for name, values in {
        "pretrain": {"out": "x", "data": {"manifests": ["a"]}, "encoder": {}, "valid": {"manifests": ["b"]}},
        "finetune": {"out": "x", "checkpoint": "y", "data": {"manifests": ["a"]}, "ctc": {"lora": {}}},
        "cluster": {"out": "x", "data": {"manifests": ["a"]}},
    }.items():
        config = from_dict(values, generated.CONFIGURATIONS[name], where="test")
        listed = set(generated.keys(generated.CONFIGURATIONS[name]))
        assert set(leaves(to_dict(config))) <= listed


def leaves(values: dict, prefix: str = ""):
    for key, value in values.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]


def test_keys_have_the_defaults_of_their_command_and_the_comment_beside_them(generated):
    rows = {
        key.name: key for section in generated.sections(generated.CONFIGURATIONS["finetune"]) for key in section.keys
    }
    channel, frames = rows["ctc.channel_mask.span"], rows["ctc.mask.span"]
    assert (channel.default, frames.default, frames.type) == ("64", "10", "integer")
    assert frames.about == "frames in a span (fairseq: mask_length)"
    assert rows["out"].default == "" and rows["text.case"].type == "keep, lower, upper"
    assert rows["data.audio.normalize"].about.endswith("null: as the model was trained")


def test_most_keys_say_what_they_are(generated):
    rows = [
        row for config in generated.CONFIGURATIONS.values() for part in generated.sections(config) for row in part.keys
    ]
    assert sum(bool(row.about) or row.default == "below" for row in rows) > 0.75 * len(rows)


def test_every_public_name_is_in_the_reference(generated):
    page = generated.pages()["reference/python.md"]
    described = {line.rsplit(".", 1)[-1] for line in page.splitlines() if line.startswith(":::")}
    described |= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert described == set(speechssl.__all__) - {"__version__"}


def test_every_module_is_listed_and_says_what_it_is(generated):
    found = {f"{folder}/{name}" for folder, rows in generated.modules().items() for name, about in rows if about}
    there = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    assert found == {path for path in there if not path.endswith("__init__.py")}


def test_the_architecture_has_a_line_for_every_folder():
    page = (DOCS / "architecture.md").read_text("utf-8")
    folders = {f"speechssl/{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(speechssl/\w+)` \|", page, re.MULTILINE)) == folders


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_or_a_generated_page(page, generated):
    made = {DOCS / place for place in generated.pages()}
    for target in LINK.findall(page.read_text("utf-8")):
        if "://" in target or target.startswith("#"):
            continue
        path = Path(os.path.normpath(page.parent / target.partition("#")[0]))
        assert path in made or path.exists(), target


def test_every_page_is_in_the_navigation_and_pages_that_lie_elsewhere_exist(generated, links):
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | set(generated.pages())
    pages |= {place for place in links.ELSEWHERE if place.endswith(".md")}
    assert sorted(re.findall(r"[\w/]+\.md", text.partition("\nnav:\n")[2])) == sorted(pages)
    assert all((ROOT / source).exists() for source in links.ELSEWHERE.values())


@pytest.mark.parametrize(
    ("place", "written", "shown"),
    [
        ("index.md", "[a](docs/tutorial.md#x)", "[a](tutorial.md#x)"),
        ("how_to/units.md", "[a](../../recipes/README.md#x)", "[a](../results/index.md#x)"),
        ("how_to/units.md", "[a](../concepts/units.md)", "[a](../concepts/units.md)"),
        ("results/gpu.md", "[S](../SCALING.md)", "[S](scaling.md)"),
        ("results/index.md", "![p](quality_per_compute/quality.png)", "![p](quality.png)"),
        ("index.md", "[the script](recipes/adapt/run.sh)", "the script (`recipes/adapt/run.sh`)"),
        ("index.md", "[recipes/adapt](recipes/adapt/run.sh)", "recipes/adapt"),
        ("index.md", "[a](https://b.c/d) [e](#f) [g](nowhere.md)", "[a](https://b.c/d) [e](#f) [g](nowhere.md)"),
        ("index.md", "```\n[a](docs/tutorial.md)\n```", "```\n[a](docs/tutorial.md)\n```"),
    ],
)
def test_links_fit_the_site(links, place, written, shown):
    pages = {"tutorial.md", "concepts/units.md", *links.ELSEWHERE}
    assert links.fit_links(written, place, pages.__contains__) == shown


def test_the_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == speechssl.__version__
    assert {"cff-version", "title", "authors", "license"} <= cited.keys()


def test_rows_of_the_reference_do_not_break_its_tables(generated):
    for place, text in generated.pages().items():
        for head in re.finditer(r"^(\|[^\n]*)\n\|(?:---\|)+\n((?:\|[^\n]*\n)*)", text, re.MULTILINE):
            columns = len(re.findall(r"(?<!\\)\|", head[1]))
            for row in head[2].splitlines():
                assert len(re.findall(r"(?<!\\)\|", row)) == columns, f"{place}: {row}"
