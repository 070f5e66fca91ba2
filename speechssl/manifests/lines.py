"""Results of work as lines of JSON, and back: dataclasses, tuples, bytes and errors stay what they are."""

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from speechssl.errors import SpeechSSLError

__all__ = ["Kinds", "read_line", "write_line"]

Kinds = Mapping[str, type]  # classes that lines may hold, by their names


def write_line(value: object) -> str:
    """Return a value as one line.

    Raises:
        ValueError: it holds something else than the kinds of values named above.
    """
    return json.dumps(_plain(value), ensure_ascii=True)


def read_line(line: str, kinds: Kinds) -> Any:
    """Return the value of a line.

    Raises:
        ValueError: no line of `write_line`, or it holds a class that is not among `kinds`.
    """
    return _value(json.loads(line), kinds)


def _plain(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case SpeechSSLError():
            return {"class": type(value).__name__, "said": str(value)}
        case tuple():
            return {"tuple": [_plain(item) for item in value]}
        case list():
            return [_plain(item) for item in value]
        case Counter():
            return {"counts": [[_plain(key), count] for key, count in value.items()]}
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"class": type(value).__name__, "fields": fields}
    raise ValueError(f"no line holds {type(value).__name__}")


def _value(plain: Any, kinds: Kinds) -> Any:
    match plain:
        case list():
            return [_value(item, kinds) for item in plain]
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"tuple": items}:
            return tuple(_value(item, kinds) for item in items)
        case {"counts": pairs}:
            return Counter({_value(key, kinds): count for key, count in pairs})
        case {"class": name} if name not in kinds:
            raise ValueError(f"no kind is called {name}")
        case {"class": name, "said": said}:
            return kinds[name](said)
        case {"class": name, "fields": dict(fields)}:
            return kinds[name](**{key: _value(item, kinds) for key, item in fields.items()})
        case dict():
            raise ValueError(f"no value: {plain!r:.80}")
    return plain
