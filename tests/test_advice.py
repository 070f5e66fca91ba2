"""What errors and notes tell the user to set, call or run is there: keys of recipes, options, commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import speechssl
from speechssl.cli.commands import COMMANDS
from speechssl.cli.lazy import Command, Group
from speechssl.config import _known_keys
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.hubert_recipe import HubertConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.selftrain import SelftrainConfig
from speechssl.stages.sweep import SweepConfig

SOURCES = Path(speechssl.__file__).parent
RECIPES = (PretrainConfig, FinetuneConfig, ClusterConfig, SweepConfig, HubertConfig, ProbeConfig, SelftrainConfig)
KEYS = {key for recipe in RECIPES for key in _known_keys(recipe)}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
DOTTED = re.compile(rf"(?<![\w./`\"'{{])(?:{'|'.join(sorted(SECTIONS))})(?:\.[a-z]\w*)+(?<!\.tsv)(?<!\.km)(?![\w(/])")
PLAIN = re.compile(r"\b(?:set|with|or|leave out|give) ([a-z]\w*)=(?=[\w{])")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
COMMAND = re.compile(r"`speechssl ([a-z]+)(?: ([a-z]+))?")


def texts() -> Iterator[tuple[str, str]]:
    """Yield every text of the sources that is no docstring, f-strings with `{}` for what is filled in."""
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        quiet: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                quiet.add(id(node.value))  # docstrings
            if isinstance(node, ast.JoinedStr):
                quiet |= {id(each) for part in node.values for each in ast.walk(part)}
        for node in ast.walk(tree):
            where = f"{path.relative_to(SOURCES)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quiet:
                yield where, node.value


TEXTS = [*texts()]
THEIRS = {
    "--force-reinstall",
    "--index-url",
    "--upgrade",
    "--sparse",
    "--max-restarts",
}  # not ours
OURS = [(where, text) for where, text in TEXTS if not where.startswith("hub/") and "fairseq" not in text]


def options(entry: Command | Group, name: str) -> set[str]:
    if isinstance(entry, Group):
        return {option for key, inner in entry.table.items() for option in options(inner, key)}
    return {option for parameter in entry.built(name).params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_dotted_keys_that_are_advised_are_keys_of_a_recipe():
    unknown = [(where, key) for where, text in TEXTS if " " in text for key in DOTTED.findall(text) if key not in KEYS]
    assert unknown == []


def test_keys_that_are_to_be_set_are_keys_of_a_recipe():
    known = {key.split(".")[-1] for key in KEYS}
    unknown = [(where, key) for where, text in OURS for key in PLAIN.findall(text) if key not in known]
    assert unknown == []


def test_options_and_commands_that_are_advised_are_there():
    known = options(COMMANDS, "") | {"--help"} | THEIRS
    unknown = [
        (where, name) for where, text in OURS if " " in text for name in OPTION.findall(text) if name not in known
    ]
    assert unknown == []
    for where, text in TEXTS:
        for first, second in COMMAND.findall(text):
            entry = COMMANDS.table.get(first)
            if entry is None or (isinstance(entry, Group) and second and second not in entry.table):
                unknown.append((where, f"{first} {second}"))
    assert unknown == []
