"""Names of utterances in files and archives, whatever is in their ids: one rule, and back.

Letters and digits of ASCII and `-._~` stay, every other byte of the id in UTF-8 becomes `%XX`, as in a URL. So do a dot
and the first of two underscores at the beginning, which mean something to file systems, Zarr and safetensors. What is
longer than a file's name may be goes into folders, whose names end in `%`, as no other name does.
"""

from urllib.parse import quote, unquote

__all__ = ["id_of_name", "name_of_id"]

_LONGEST = 200  # bytes of a name without suffix; most file systems take 255 with it
_RESERVED = {".": "%2E", "__": "%5F_"}


def name_of_id(key: str) -> str:
    """Return the name of an utterance: a relative path without suffix, of safe characters.

    Examples:
        >>> name_of_id("84-121123-0003"), name_of_id("a b/c"), name_of_id("..")
        ('84-121123-0003', 'a%20b%2Fc', '%2E.')
    """
    name = quote(key, safe="") or "%"
    pieces = [name[start : start + _LONGEST] for start in range(0, len(name), _LONGEST)]
    for begin, written in _RESERVED.items():
        pieces = [written + piece[len(begin) :] if piece.startswith(begin) else piece for piece in pieces]
    return "%/".join(pieces)


def id_of_name(name: str) -> str:
    """Return the id of an utterance.

    Examples:
        >>> id_of_name("a%20b%2Fc")
        'a b/c'
    """
    return unquote(name.replace("%/", "").removesuffix("%"))
