"""The published layouts of SUPERB's and ML-SUPERB's data by name, and the files that an import writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from speechssl.atomic import write_atomically
from speechssl.corpus.entries import Progress
from speechssl.corpus.layouts.fluent_commands import find_fluent_commands
from speechssl.corpus.layouts.iemocap import find_iemocap
from speechssl.corpus.layouts.librispeech_phones import find_librispeech_phones
from speechssl.corpus.layouts.listing import Listed, Listing, manifest_of
from speechssl.corpus.layouts.ml_superb import find_ml_superb
from speechssl.corpus.layouts.speech_commands import find_speech_commands
from speechssl.corpus.layouts.voxceleb1 import find_voxceleb1

__all__ = ["LAYOUTS", "Layout", "list_layout", "write_labels"]

Layout = Literal["voxceleb1", "speech-commands", "iemocap", "fluent-speech-commands", "librispeech-phones", "ml-superb"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def list_layout(name: Layout, source: Path, *, progress: Progress = lambda items, _: items) -> Listed:
    """List a published folder in place.

    Args:
        name: its layout.
        source: the folder.
        progress: wraps the iterable of headers, given their number.

    Raises:
        CorpusError: the folder has another layout.
        ManifestError: two recordings have one id.
        AudioError: a recording cannot be read.
    """
    listing = _finder(name)(source)
    return Listed(
        manifest=manifest_of(listing, progress=progress),
        answers=listing.answers,
        trials=listing.trials,
        alignments=listing.alignments,
        notes=listing.notes,
    )


def write_labels(manifest: Path, listed: Listed) -> list[Path]:
    """Write what is no column of a manifest beside it: `NAME.answers.tsv`, `NAME.LIST.trials`, `NAME.phones.tsv`.

    Args:
        manifest: the manifest's file.
        listed: the listed folder.

    Returns:
        The files; none of those that the layout has not.
    """
    written = []
    if listed.answers:
        columns = list(next(iter(listed.answers.values())))
        lines = ["\t".join(["id", *columns])]
        lines += ["\t".join([key, *(row[column] for column in columns)]) for key, row in listed.answers.items()]
        written.append(_write(manifest, "answers.tsv", lines))
    for name, trials in listed.trials.items():
        lines = [f"{int(trial.is_same)} {trial.enrolled} {trial.tested}" for trial in trials]
        written.append(_write(manifest, f"{Path(name).stem}.trials", lines))
    if listed.alignments:
        lines = ["id\tphones", *(f"{key}\t{cells}" for key, cells in listed.alignments.items())]
        written.append(_write(manifest, "phones.tsv", lines))
    return written


def _finder(name: Layout) -> Callable[[Path], Listing]:
    match name:
        case "voxceleb1":
            return find_voxceleb1
        case "speech-commands":
            return find_speech_commands
        case "iemocap":
            return find_iemocap
        case "fluent-speech-commands":
            return find_fluent_commands
        case "librispeech-phones":
            return find_librispeech_phones
        case "ml-superb":
            return find_ml_superb


def _write(manifest: Path, ending: str, lines: list[str]) -> Path:
    path = manifest.with_name(f"{manifest.stem}.{ending}")
    write_atomically(path, "\n".join(lines) + "\n")
    return path
