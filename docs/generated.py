"""Pages that the code itself gives: every command's help, every configuration key, the public names, the modules."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union

import speechssl
from speechssl.__main__ import main
from speechssl.cli.commands import COMMANDS
from speechssl.cli.lazy import Group
from speechssl.config import OneOf
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.hubert_chain import HubertConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.selftrain import SelftrainConfig
from speechssl.stages.sweep import SweepConfig
from speechssl.tasks.contrastive_health import contrastive_health
from speechssl.tasks.ctc_health import ctc_health
from speechssl.tasks.masked_prediction_health import masked_prediction_health
from speechssl.tasks.random_projection_health import random_projection_health
from speechssl.tasks.teacher_health import teacher_health

__all__ = ["CONFIGURATIONS", "command_names", "keys", "modules", "pages"]

PACKAGE = Path(speechssl.__file__).parent
CONFIGURATIONS = {  # by command; preflight reads what finetune does
    "cluster": ClusterConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "sweep": SweepConfig,
    "probe": ProbeConfig,
    "hubert": HubertConfig,
    "selftrain": SelftrainConfig,
    "manifest check": CheckConfig,
}
_WIDTH = 96  # of help texts, in characters


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a configuration, as a row of its table."""

    name: str  # dotted
    type: str
    default: str  # "" where there is none
    about: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The keys of one configuration class, below one prefix."""

    title: str
    about: str
    keys: tuple[Key, ...]


@functools.cache
def pages() -> dict[str, str]:
    """Return all generated pages, Markdown by path below docs/."""
    made = {
        "reference/commands.md": _commands(),
        "reference/python.md": _python(),
        "reference/alarms.md": _alarms(),
        "reference/modules.md": _modules(),
        "notebook.md": _notebook(),
    }
    for command, config in CONFIGURATIONS.items():
        made[f"reference/keys/{command.replace(' ', '_')}.md"] = _configuration(command, config)
    return made


# ---- commands ----


def command_names(group: Group = COMMANDS, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield every command with its summary, as ("manifest build", "List the audio ...")."""
    for name, entry in group.table.items():
        if isinstance(entry, Group):
            yield from command_names(entry, f"{before}{name} ")
        else:
            yield f"{before}{name}", entry.summary


def help_of(command: str) -> str:
    """Return what `speechssl COMMAND --help` prints."""
    said = io.StringIO()
    before = dict(os.environ)
    os.environ |= {"COLUMNS": str(_WIDTH), "TERMINAL_WIDTH": str(_WIDTH), "NO_COLOR": "1"}
    try:
        with contextlib.redirect_stdout(said):
            main([*command.split(), "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return said.getvalue().strip()


def _commands() -> str:
    names = list(command_names())
    lines = [
        "# Commands",
        "",
        "What `speechssl COMMAND --help` prints. Stages take a recipe and `key=value` pairs; their keys are on pages",
        "of their own. The exit status is 0 when a command did what it was asked for, also when it was told to stop",
        "and has saved its work; 1 where a check found errors; 2 for what the user can mend, said in one line; 130",
        "after Ctrl-C where there was nothing to save.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`{name}`](#{_anchor(name)}) | {summary} |" for name, summary in names),
    ]
    for name, _ in names:
        lines += ["", f"## {name} {{#{_anchor(name)}}}", ""]
        if name in CONFIGURATIONS:
            lines += [f"Keys: [{name}](keys/{name.replace(' ', '_')}.md).", ""]
        lines += ["```text", help_of(name), "```"]
    return "\n".join(lines) + "\n"


def _anchor(command: str) -> str:
    return command.replace(" ", "-")


# ---- configuration ----


def keys(config: type) -> list[str]:
    """Return every dotted key of a configuration, once."""
    return list(dict.fromkeys(key.name for section in sections(config) for key in section.keys))


def sections(config: type, prefix: str = "", given: Any = None, title: str = "") -> Iterator[Section]:
    """Yield the tables of a configuration and of those inside it.

    Args:
        config: its class.
        prefix: of its keys.
        given: the object that is the default there; None for the defaults of the class.
        title: of its table; the prefix if there is none.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    comments = _comments(config)
    rows: list[Key] = []
    nested: list[tuple[type, str, Any, str]] = []
    for field in dataclasses.fields(config):
        if not field.init:
            continue
        name = prefix + field.name
        default = getattr(given, field.name) if given is not None else _default(field)
        inside = _dataclasses_in(hints[field.name])
        rows.append(Key(name, _type_name(hints[field.name]), _shown(default), comments.get(field.name, "")))
        for each in inside:
            is_list = typing.get_origin(_bare(hints[field.name])) is tuple
            kind = getattr(each, "kind", None) if len(inside) > 1 else None
            below = f"{name}.1." if is_list else f"{name}."
            value = default if type(default) is each else None
            nested.append((each, below, value, f"{below[:-1]}, kind={kind}" if kind else ""))
    about = inspect.cleandoc(config.__doc__ or "").split("\n\n")[0]
    yield Section(title or prefix.removesuffix(".") or "top level", " ".join(about.split()), tuple(rows))
    for each, below, value, heading in nested:
        yield from sections(each, below, value, heading)


def _configuration(command: str, config: type) -> str:
    how = (
        "Set with `--set KEY=VALUE`."
        if command == "manifest check"
        else f"Given in a YAML recipe, or as `key=value` behind it: `speechssl {command} RECIPE.yaml KEY=VALUE ...`. "
        "`--dry-run` prints them all with their values."
    )
    lines = [f"# Keys of {command}", "", how, ""]
    for section in sections(config):
        lines += [
            f"## {section.title}",
            "",
            section.about,
            "",
            "| key | type | default | what it is |",
            "|---|---|---|---|",
        ]
        for key in section.keys:
            default = f"`{_cell(key.default)}`" if key.default else "required"
            lines.append(f"| `{key.name}` | {_cell(key.type)} | {default} | {_cell(key.about)} |")
        lines.append("")
    return "\n".join(lines)


def _comments(config: type) -> dict[str, str]:
    """Return what stands as a comment beside each field of a class, or inside its statement."""
    source = textwrap.dedent(inspect.getsource(config))
    spoken: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            spoken[token.start[0]] = token.string.lstrip("# ")
    lines = source.splitlines()
    found: dict[str, str] = {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        first = node.lineno
        while first - 1 in spoken and lines[first - 2].lstrip().startswith("#"):  # comments of their own, above it
            first -= 1
        texts = [spoken[line] for line in range(first, (node.end_lineno or node.lineno) + 1) if line in spoken]
        found[node.target.id] = _as_yaml(" ".join(texts))
    return found


def _as_yaml(text: str) -> str:
    """Write the values that a comment names as recipes have them."""
    for python, yaml in (("None", "null"), ("False", "false"), ("True", "true")):
        text = re.sub(rf"\b{python}\b", yaml, text)
    return text


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: object) -> str:
    """Write a default as YAML has it; sections and those that are required are empty."""
    match value:
        case _ if value is dataclasses.MISSING:
            return ""
        case _ if dataclasses.is_dataclass(value):
            kind = getattr(value, "kind", None)
            return f"kind: {kind}" if kind else "below"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(_shown, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
        case str():
            return value or '""'
        case _:
            return str(value)


def _type_name(hint: Any) -> str:
    bare = _bare(hint)
    origin, parts = typing.get_origin(bare), typing.get_args(bare)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(part) for part in parts))
    if origin is typing.Literal:
        return ", ".join(map(str, parts))
    if origin is tuple:
        inner = [_type_name(part) for part in parts if part is not Ellipsis]
        return f"list of {inner[0]}" if len(parts) == 2 and parts[1] is Ellipsis else f"[{', '.join(inner)}]"
    if origin is dict:
        return "mapping"
    if dataclasses.is_dataclass(bare):
        return "section"
    return {Path: "path", type(None): "null", str: "text", int: "integer", float: "number", bool: "true or false"}.get(
        bare, getattr(bare, "__name__", str(bare))
    )


def _bare(hint: Any) -> Any:
    """Return what an annotation says without its notes; of an open set, the union of what is in it."""
    if typing.get_origin(hint) is not Annotated:
        return hint
    opened = [note for note in hint.__metadata__ if isinstance(note, OneOf)]
    return Union[tuple(opened[0].kinds().values())] if opened else typing.get_args(hint)[0]  # noqa: UP007


def _dataclasses_in(hint: Any) -> list[type]:
    bare = _bare(hint)
    if dataclasses.is_dataclass(bare):
        return [typing.cast(type, bare)]
    return [found for part in typing.get_args(bare) for found in _dataclasses_in(part)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---- alarms ----


def _alarms() -> str:
    lines = [
        "# Alarms",
        "",
        "Every band of a task's health: what is watched, where it lies in a healthy run, what to do outside of it.",
        "",
    ]
    tasks = {
        "contrastive": contrastive_health(100),
        "masked_prediction": masked_prediction_health((100,)),
        "random_projection": random_projection_health(1, 256),
        "teacher": teacher_health(None),
        "ctc": ctc_health(0),
    }
    bands = dict.fromkeys(band for health in tasks.values() for band in health.bands)
    for name in dict.fromkeys(band.name for band in bands):
        lines += [f"## {name}", ""]
        for band in (each for each in bands if each.name == name):  # tasks may say other causes and changes
            kinds = [kind for kind, health in tasks.items() if band in health.bands]
            lines += [f"Of {', '.join(kinds)}. {_sentence(band.shown)}", ""]
            lines += [f"- **Seen**: {_sentence(band.seen)}", f"- **Likely**: {_sentence(band.likely)}"]
            lines += [f"- **Change**: {_sentence(band.change)}", ""]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


# ---- the notebook ----


def _notebook() -> str:
    cells = json.loads((Path(__file__).parent / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    lines: list[str] = []
    for cell in cells:
        source = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        language = "bash" if source.startswith("!") else "python"
        lines += [f"```{language}\n{source.removeprefix('!')}\n```" if is_code else source, ""]
        for output in cell.get("outputs", ()):
            if "text" in output:
                lines += [f"```text\n{''.join(output['text']).rstrip()}\n```", ""]
            if "image/png" in output.get("data", {}):
                picture = output["data"]["image/png"].replace("\n", "")
                lines += [f'<img alt="A spectrogram with units below" src="data:image/png;base64,{picture}">', ""]
    return "\n".join(lines)


# ---- modules and public names ----


def modules() -> dict[str, list[tuple[str, str]]]:
    """Return the modules of each folder of the package, with the first line of their docstrings."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        folder = path.parent.relative_to(PACKAGE.parent).as_posix()
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found.setdefault(folder, []).append((path.name, doc.split("\n\n")[0].replace("\n", " ")))
    return dict(sorted(found.items()))


def _modules() -> str:
    lines = [
        "# Modules",
        "",
        "Every module, with the first sentence of its docstring. [The folders](../architecture.md)",
        "",
    ]
    for folder, rows in modules().items():
        lines += [f"## {folder}", "", "| module | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(about)} |" for name, about in rows]
        lines.append("")
    return "\n".join(lines)


def _python() -> str:
    names = [name for name in speechssl.__all__ if not name.startswith("_")]
    configurations = [name for name in names if name.endswith("Config")]
    lines = ["# Python", "", "What `import speechssl` offers; everything else may change between versions.", ""]
    for name in sorted(
        set(names) - set(configurations), key=lambda name: (name != "load", _part(name), names.index(name))
    ):
        item = getattr(speechssl, name)
        lines += [f"::: {item.__module__}.{item.__qualname__}", ""]
    lines += ["## Configurations", "", "Frozen dataclasses with keyword arguments; as recipes, they are YAML.", ""]
    lines += ["| name | what it is |", "|---|---|"]
    for name in configurations:
        about = _cell(inspect.cleandoc(getattr(speechssl, name).__doc__ or "").split("\n")[0])
        keys_of = [command for command, config in CONFIGURATIONS.items() if config is getattr(speechssl, name)]
        lines.append(f"| `{name}` | {about}{''.join(f' [Keys](keys/{each}.md)' for each in keys_of)} |")
    return "\n".join(lines) + "\n"


def _part(name: str) -> int:
    """Return where the part of the package that defines a name stands on the page."""
    parts = ("inference", "transcripts", "scoring", "data", "units", "stages", "train", "model", "errors")
    part = getattr(speechssl, name).__module__.split(".")[1]
    return parts.index(part) if part in parts else len(parts)
