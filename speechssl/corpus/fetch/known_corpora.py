"""Finds corpora: those of this package, of a Python file, and of installed packages.

A file defines `CORPORA`, a tuple of `Corpus`. A package adds such a tuple through the entry point `speechssl.corpora`:

    [project.entry-points."speechssl.corpora"]
    digits = "my_package.digits:CORPORA"

The entry point's name does not matter; a corpus is selected by its own name.
"""

import importlib.util
import re
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from speechssl.corpus.fetch.common_voice import COMMON_VOICE
from speechssl.corpus.fetch.festvox import FESTVOX_RU
from speechssl.corpus.fetch.librispeech import LIBRI_LIGHT, LIBRISPEECH
from speechssl.corpus.fetch.pocketsphinx import POCKETSPHINX
from speechssl.corpus.fetch.source import Corpus
from speechssl.errors import CorpusError

__all__ = ["CORPORA", "all_corpora", "corpora_named", "describe_corpora", "read_corpora"]

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus for corpus in (FESTVOX_RU, POCKETSPHINX, LIBRISPEECH, LIBRI_LIGHT, COMMON_VOICE)
}
GROUP = "speechssl.corpora"
_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>.*))?")
_MOVED = ("asterisk", "fillets", "tuxpaint")  # formerly in the package; each is a file of the repository now


def corpora_named(which: str) -> tuple[Corpus, ...]:
    """Return the corpora named on the command line.

    Args:
        which: a name in `all_corpora`, `FILE.py` for all corpora of the file, or `FILE.py:NAME`.

    Returns:
        One corpus, or all corpora of the file.

    Raises:
        CorpusError: the name is unknown, or the file does not define corpora (`read_corpora`).
    """
    match = _FILE.fullmatch(which)
    if match is None:
        return (_installed(which),)
    defined = read_corpora(Path(match["file"]))
    if match["name"] is None:
        return tuple(defined.values())
    if match["name"] not in defined:
        raise CorpusError(
            f"{match['file']}: defines no corpus called {match['name']!r}, found {', '.join(defined)}; "
            "correct the name after the colon"
        )
    return (defined[match["name"]],)


def all_corpora() -> dict[str, Corpus]:
    """Return all corpora but those of files, by name.

    A package whose corpora cannot be imported, or have a name that is taken, is reported on standard error and skipped.
    """
    found = dict(CORPORA)
    for entry in entry_points(group=GROUP):
        where = f"the corpora {entry.name} of {entry.dist.name if entry.dist else entry.value}"
        try:
            added = _loaded(entry, where)
            taken = ", ".join(sorted(found.keys() & added.keys()))
            if taken:
                raise CorpusError(
                    f"{where}: {taken} is also the name of another corpus; rename it, or remove a package"
                )
            found |= added
        except CorpusError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def read_corpora(path: Path) -> dict[str, Corpus]:
    """Run a Python file and return the corpora that it defines, by name.

    Raises:
        CorpusError: the file does not exist or cannot be run, or its `CORPORA` is missing, is not a tuple of `Corpus`,
            or holds two of the same name.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; name a Python file that defines CORPORA, a tuple of Corpus")
    spec = importlib.util.spec_from_file_location(f"corpora of {path.stem}", path)
    assert spec is not None and spec.loader is not None  # true for every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file look up annotations there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # code of others may raise anything
        del sys.modules[spec.name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        at = f"{path}:{lines[-1]}" if lines else f"{path}"
        raise CorpusError(
            f"{at}: cannot be imported ({type(error).__name__}: {error}); fix it, or install what it needs"
        ) from error
    if not hasattr(module, "CORPORA"):
        raise CorpusError(f"{path}: defines no CORPORA; expected `CORPORA = (Corpus(name=..., ...),)` in it")
    return _by_name(module.CORPORA, str(path))


def describe_corpora(corpora: Mapping[str, Corpus]) -> list[str]:
    """Describe each corpus in a line: name, contents, licence, origin."""
    width = max(map(len, corpora), default=0)
    return [f"{c.name:<{width}}  {c.summary}; licence {c.licence}; {_origin(c)}" for c in corpora.values()]


def _installed(name: str) -> Corpus:
    if name in CORPORA:
        return CORPORA[name]
    known = all_corpora()
    if name in known:
        return known[name]
    family = name.partition("-")[0]
    if family in _MOVED:
        file = f"recipes/corpora/{family}.py"
        raise CorpusError(
            f"no corpus is called {name!r}: those of {family} have moved to {file} of the repository; in a checkout, "
            f"`speechssl corpus {file}` lists them, and {file}:NAME in place of {name} takes one"
        )
    raise CorpusError(
        f"no corpus is called {name!r}; expected one of {', '.join(known)}, or a file that defines some, FILE.py:NAME"
    )


def _loaded(entry: EntryPoint, where: str) -> dict[str, Corpus]:
    try:
        corpora = entry.load()
    except Exception as error:  # code of others may raise anything
        raise CorpusError(f"{where} cannot be imported ({error}); fix or remove the package") from error
    return _by_name(corpora, where)


def _by_name(corpora: object, where: str) -> dict[str, Corpus]:
    if not isinstance(corpora, tuple | list):
        raise CorpusError(f"{where}: expected CORPORA to be a tuple of Corpus, found {type(corpora).__name__}; fix it")
    others = {type(corpus).__name__ for corpus in corpora if not isinstance(corpus, Corpus)}
    if others or not corpora:
        found = f"{', '.join(sorted(others))} in it" if others else "nothing in it"
        raise CorpusError(f"{where}: expected CORPORA to be a tuple of Corpus, found {found}; fix it")
    twice = [name for name, count in Counter(corpus.name for corpus in corpora).items() if count > 1]
    if twice:
        raise CorpusError(f"{where}: two corpora are called {twice[0]}, expected a name for each; rename one of them")
    return {corpus.name: corpus for corpus in corpora}


def _origin(corpus: Corpus) -> str:
    return f"Debian packages {' '.join(corpus.packages)}" if corpus.packages else f"needs --source: {corpus.layout}"
