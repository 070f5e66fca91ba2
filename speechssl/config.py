"""Strict configurations: loads frozen dataclasses from YAML and `key=value` overrides.

pydantic does the validation; the dataclasses themselves stay plain, so that model code does not depend on it.
"""

import dataclasses
import difflib
import json
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import Discriminator, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from speechssl.errors import ConfigError

__all__ = [
    "Discriminator",
    "OneOf",
    "Row",
    "Shown",
    "added",
    "as_yaml",
    "configuration",
    "describe",
    "flatten",
    "from_dict",
    "like",
    "load",
    "rows_of",
    "to_dict",
    "to_stored",
    "was",
    "with_overrides",
]

Config = TypeVar("Config")
Row = tuple[str, object, bool]  # a dotted key, its value, and whether the value is the default


class Shown(ABC):
    """Values derived from a configuration and shown with its keys; stored in a field with `init=False`."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yield the rows to show."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configuration(cls: type[Config]) -> type[Config]:
    """Make `cls` a frozen, keyword-only dataclass that `load` fills strictly."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


class OneOf:
    """Annotation of a field that takes one of several configurations, selected by their key `kind`.

    Unlike a union type, the set of configurations is open: it is determined when a recipe is read.
    """

    def __init__(self, kinds: Callable[[], Mapping[str, type]], *, hint: str) -> None:
        """Take a function that returns at least two classes by kind, and advice for an unknown kind."""
        self.kinds, self.hint = kinds, hint

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build pydantic's schema of a tagged union."""
        union = reduce(operator.or_, self.kinds().values())
        return handler.generate_schema(Annotated[union, Discriminator("kind")])


def added(default: Any) -> Any:
    """Make a field that earlier versions lack; its default is not stored, so that they still read the files."""
    return dataclasses.field(default=default, metadata={"added": True})


def was(old: str, default: Any) -> Any:
    """Make a field whose key was renamed; the old name is still read.

    Args:
        old: the old name.
        default: default of the field.
    """
    return dataclasses.field(default=default, metadata={"was": old})


def like(section: str, key: str, *, old: str = "") -> Any:
    """Make a field for an optional section that inherits keys of one subsection from another section.

    Args:
        section: the other section, of the same kind: `data` for `dev`.
        key: name of the subsection whose keys are inherited one by one.
        old: old name of the field, which is still read.
    """
    return dataclasses.field(default=None, metadata={"like": (section, key), "was": old})


def load(path: Path, config_type: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: a YAML file with the keys that differ from the defaults.
        config_type: a class made by `configuration`.
        overrides: `key=value` pairs, the key dotted (`mask.span=5`, or `iterations.2.seed=5` for the second of a
            list), the value in YAML.

    Raises:
        ConfigError: the file is missing or no mapping, a key is unknown, or a value is invalid.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe ({error.strerror}); name an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    for hint in _old_names(values, config_type):
        print(f"{path}: {hint}", file=sys.stderr)
    return from_dict(values, config_type, where=str(path), overrides=overrides)


def from_dict(
    values: Mapping[str, Any], config_type: type[Config], *, where: str, overrides: Sequence[str] = ()
) -> Config:
    """Build a configuration from nested mappings.

    Args:
        values: values by key.
        config_type: a class made by `configuration`.
        where: origin of the values, for error messages.
        overrides: `key=value` pairs from the command line, already contained in `values`; for error messages.

    Raises:
        ConfigError: a key is unknown, or a value is invalid.
    """
    try:
        return TypeAdapter(config_type).validate_python(_filled(_renamed(values, config_type), config_type))
    except ValidationError as error:
        said = (_explain(item, config_type, where, overrides) for item in error.errors())
        raise ConfigError("\n".join(said)) from error
    except ConfigError as error:  # raised by a __post_init__, which knows no file
        meant = [each for each in overrides if each.partition("=")[0].split(".")[-1] in str(error)]
        raise ConfigError(f"{where}{' with ' if meant else ''}{' '.join(meant)}: {error}") from error


def with_overrides(
    values: Mapping[str, Any], config_type: type[Config], overrides: Sequence[str], *, where: str
) -> Config:
    """Build a configuration from nested mappings, and `key=value` pairs as for `load`.

    Raises:
        ConfigError: as `from_dict`.
    """
    changed = json.loads(json.dumps(values))
    for override in overrides:
        _override(changed, override)
    return from_dict(changed, config_type, where=where, overrides=overrides)


def to_dict(config: object) -> dict[str, Any]:
    """Return a configuration as nested plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))  # type: ignore[call-overload]


def to_stored(config: object) -> dict[str, Any]:
    """Return what is written to a file: `to_dict` without the fields of `added` that have their default."""
    return json.loads(json.dumps(_stored(config), default=str))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values as a flat dictionary with dotted keys.

    Examples:
        >>> flatten({"seed": 1, "train": {"steps": 2}})
        {'seed': 1, 'train.steps': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def describe(config: object) -> list[str]:
    """List every key with its value, with a star after values that are not the default."""
    rows = list(rows_of(config))
    width = max((len(key) for key, _, _ in rows), default=0)
    return [f"{key:{width}}  {value}{'' if is_default else '  *'}" for key, value, is_default in rows]


def rows_of(config: Any, defaults: Any = None) -> Iterator[Row]:
    """Yield every key of a configuration, at any depth.

    Args:
        config: a dataclass.
        defaults: object whose values count as the defaults; None for the defaults of the class.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = _default(field) if type(defaults) is not type(config) else getattr(defaults, field.name)
        if isinstance(value, Shown) or dataclasses.is_dataclass(value):
            inner = value.rows() if isinstance(value, Shown) else rows_of(value, default)
            yield from ((f"{field.name}.{key}", each, is_default) for key, each, is_default in inner)
        else:
            yield field.name, value, value == default


def _stored(value: Any) -> Any:
    """Replace dataclasses at any depth by dictionaries of the fields that are stored."""
    match value:
        case Mapping():
            return {key: _stored(each) for key, each in value.items()}
        case list() | tuple():
            return [_stored(each) for each in value]
        case _ if dataclasses.is_dataclass(value):
            fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
            return {
                field.name: _stored(each)
                for field, each in fields
                if not ("added" in field.metadata and each == _default(field))
            }
        case _:
            return value


def _override(values: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for example train.steps=100")
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        if isinstance(section, dict):
            section.setdefault(parent, {})
        section = section[_place(section, parent, override)]
    try:
        section[_place(section, last, override)] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error


def _place(section: Any, key: str, override: str) -> str | int:
    """Return the key of an entry of a section, or the index of an entry of a list, numbered from 1 in `key`."""
    match section:
        case dict():
            return key
        case list() if key.isdigit() and 1 <= int(key) <= len(section):
            return int(key) - 1
        case list():
            raise ConfigError(
                f"override {override!r}: expected a number from 1 to {len(section)} in the recipe's list, found {key}"
            )
        case _:
            raise ConfigError(
                f"override {override!r}: {key} cannot be set in a single value, which has no keys of its own"
            )


def _renamed(values: Mapping[str, Any], config_type: type) -> dict[str, Any]:
    """Replace old names of keys by the current ones, in all sections.

    Raises:
        ConfigError: a key is given under both names.
    """
    renamed = dict(values)
    for field in dataclasses.fields(config_type):
        old = field.metadata.get("was")
        if old and old in renamed:
            if field.name in renamed:
                raise ConfigError(f"{old} and {field.name} are one key, {field.name} its present name; remove {old}")
            renamed[field.name] = renamed.pop(old)
        for section in _sections_in(field, renamed.get(field.name)):
            renamed[field.name] = _renamed(renamed[field.name], section)
    return renamed


def _old_names(values: Mapping[str, Any], config_type: type, prefix: str = "") -> Iterator[str]:
    """Yield a message for each key that is given under its old name."""
    for field in dataclasses.fields(config_type):
        old = field.metadata.get("was")
        if old and old in values:
            yield f"{prefix}{old} is called {prefix}{field.name} now; the old name is still read"
        given = values.get(field.name, values.get(old) if old else None)
        for section in _sections_in(field, given):
            yield from _old_names(given, section, f"{prefix}{field.name}.")


def _sections_in(field: "dataclasses.Field[Any]", given: Any) -> list[type]:
    """Return the configuration class of a section, selected by its `kind` if there are several; empty if none fits."""
    if not isinstance(given, Mapping):
        return []
    known = _dataclasses_in(field.type)
    kinds = [section for section in known if given.get("kind") == _kind(section)]
    return (kinds if given.get("kind") else known)[:1]


def _filled(values: Mapping[str, Any], holder: Any) -> dict[str, Any]:
    """Complete partly given sections with the defaults of `holder` (class or object), not those of their own class."""
    filled = dict(values)
    for field in dataclasses.fields(holder):
        given = _taken_over(field, values)
        if not isinstance(given, Mapping):
            continue
        default = _default(field) if isinstance(holder, type) else getattr(holder, field.name)
        if dataclasses.is_dataclass(default) and given.get("kind", _kind(default)) == _kind(default):
            filled[field.name] = vars(default) | _filled(given, default)
        else:
            for section in _dataclasses_in(field.type):
                if given.get("kind") == _kind(section):
                    filled[field.name] = _filled(given, section)
    return filled


def _taken_over(field: "dataclasses.Field[Any]", values: Mapping[str, Any]) -> Any:
    """Return the given values of a section, with the keys inherited from another section, see `like`."""
    given = values.get(field.name)
    section, key = field.metadata.get("like", ("", ""))
    other = values.get(section)
    theirs, own = ((each.get(key) if isinstance(each, Mapping) else None) for each in (other, given))
    if not isinstance(given, Mapping) or not isinstance(theirs, Mapping) or not isinstance(own, Mapping | None):
        return given
    known = {known for annotated in _dataclasses_in(field.type) for known in _known_keys(annotated)}
    taken = {name: value for name, value in theirs.items() if f"{key}.{name}" in known}
    return {**given, key: taken | dict(own or {})}


def _kind(section: object) -> str | None:
    return getattr(section, "kind", None)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _explain(item: Any, config_type: type, where: str, overrides: Sequence[str]) -> str:
    counted = [part + 1 if isinstance(part, int) else part for part in item["loc"]]  # lists are counted from 1
    key = ".".join(str(part) for part in counted if not _is_union_tag(part, config_type))
    for name in (each.partition("=")[0] for each in overrides):
        is_new = item["type"] in ("unexpected_keyword_argument", "extra_forbidden") and name.startswith(f"{key}.")
        where = "command line" if key == name or key.startswith(f"{name}.") or is_new else where
    match item["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = sorted(set(_known_keys(config_type)))
            if owners := ", ".join(_owners(config_type, key)):
                section = key.partition(".")[0]
                return f"{where}: {key} is a key of {section}.kind={owners} only; remove it, or change {section}.kind"
            if ":" in key:
                return f"{where}: unknown key {key}; YAML wants a space after a colon, as in {{key: value}}"
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            return f"{where}: unknown key {key}" + (f"; did you mean {close[0]}?" if close else "")
        case "missing" | "missing_argument":
            return f"{where}: {key} is required and has no default; add it"
        case "union_tag_not_found" | "union_tag_invalid":
            hints = [hint for known, hint in _hints(config_type) if known == key]
            return "; ".join([f"{where}: {key}: {item['msg']}", *hints])
        case "dataclass_type":
            below = {name.removeprefix(f"{key}.") for name in _known_keys(config_type) if name.startswith(f"{key}.")}
            keys = ", ".join(sorted(name for name in below if "." not in name))
            return (
                f"{where}: {key} has the keys {keys}, found {item['input']!r}; give these, or {{}} for their defaults"
            )
        case _:
            return f"{where}: {key}: {item['msg']}, found {item['input']!r}"


def _is_union_tag(part: object, config_type: type) -> bool:
    """Return whether a part of pydantic's error location is the tag of a union, not a key of the configuration."""
    return part in _tags(config_type) and part not in {key.split(".")[-1] for key in _known_keys(config_type)}


def _tags(config_type: type) -> set[object]:
    found: set[object] = set()
    for field in _settable(config_type):
        if field.name == "kind":
            found.add(field.default)
        for nested in _dataclasses_in(field.type):
            found |= _tags(nested)
    return found


def _known_keys(config_type: type, prefix: str = "") -> Iterator[str]:
    for field in _settable(config_type):
        nested = _dataclasses_in(field.type)
        yield prefix + field.name
        for inner in nested:
            yield from _known_keys(inner, f"{prefix}{field.name}.")


def _owners(config_type: type, key: str) -> Iterator[str]:
    """Yield the kinds of a section that have a key, if it has several kinds."""
    name, _, rest = key.partition(".")
    for sections in (_dataclasses_in(field.type) for field in _settable(config_type) if field.name == name):
        for kind, section in ((_kind(each), each) for each in sections):
            if kind is not None and rest in set(_known_keys(section)):
                yield kind


def _hints(config_type: type) -> Iterator[tuple[str, str]]:
    """Yield the keys annotated by `OneOf`, with the advice for an unknown kind."""
    for field in dataclasses.fields(config_type):
        for annotation in (field.type, *getattr(field.type, "__args__", ())):
            notes = getattr(annotation, "__metadata__", ())
            yield from ((field.name, note.hint) for note in notes if isinstance(note, OneOf))


def _settable(config_type: type) -> "list[dataclasses.Field[Any]]":
    """Return the fields that a recipe may set."""
    return [field for field in dataclasses.fields(config_type) if field.init]


def _dataclasses_in(annotation: Any) -> list[type]:
    if dataclasses.is_dataclass(annotation):
        return [annotation]  # type: ignore[list-item]
    for note in getattr(annotation, "__metadata__", ()):
        if isinstance(note, OneOf):
            return [*note.kinds().values()]
    return [found for part in getattr(annotation, "__args__", ()) for found in _dataclasses_in(part)]


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML in their order, with a final line feed."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
