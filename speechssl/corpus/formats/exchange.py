"""Manifests from other toolkits and for them: one function in, one out, a case for each format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from speechssl.corpus.entries import Progress, as_manifest
from speechssl.corpus.formats.fairseq_tsv import read_fairseq, write_fairseq
from speechssl.corpus.formats.hf_datasets import (
    read_audio_folder,
    read_saved_dataset,
    write_audio_folder,
    write_saved_dataset,
)
from speechssl.corpus.formats.kaldi import read_kaldi, write_kaldi
from speechssl.corpus.formats.lhotse_cuts import read_lhotse, write_lhotse
from speechssl.corpus.formats.nemo import read_nemo, write_nemo
from speechssl.corpus.formats.tables import read_table, write_table
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError

__all__ = ["FORMATS", "Format", "export_manifest", "import_manifest"]

Format = Literal["fairseq", "kaldi", "nemo", "lhotse", "audiofolder", "dataset", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)


def import_manifest(
    source: Path,
    form: Format,
    *,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress = lambda items, _: items,
) -> tuple[Manifest, list[str]]:
    """Read another toolkit's list of audio; every header is read and compared with what the list says.

    Args:
        source: file or folder.
        form: what it is.
        root: folder that paths start from and may not leave; None for the one fairseq's table names, and for the
            folder of the list otherwise. A saved dataset's audio is written there, so it has to be named.
        columns: for tables, NeMo's manifests and datasets, our column -> its name there.
        progress: shows how far the headers are.

    Returns:
        The manifest, and notes on what was not taken.

    Raises:
        ManifestError: the list does not parse, or names what a manifest cannot hold.
        AudioError: a file cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    named = columns or {}
    if named and form in ("fairseq", "kaldi", "lhotse"):
        raise ManifestError(f"columns: {form} has names of its own, found {dict(named)}; leave --columns out")
    match form:
        case "fairseq":
            entries, folder, notes = read_fairseq(source)
        case "kaldi":
            entries, notes = read_kaldi(source)
        case "nemo":
            entries, notes = read_nemo(source, named)
        case "lhotse":
            entries, notes = read_lhotse(source)
        case "audiofolder":
            entries, notes = read_audio_folder(source, named)
        case "dataset":
            if root is None:
                raise ManifestError(f"{source}: holds the audio itself; name a folder to write it to with --root")
            entries, notes = read_saved_dataset(source, root, named)
        case "table":
            entries, notes = read_table(source, named)
    if not entries:
        raise ManifestError(f"{source}: lists no utterances; name a list that does")
    return as_manifest(entries, root or folder, progress=progress), notes


def export_manifest(
    manifest: Manifest, out: Path, form: Format, *, columns: Mapping[str, str] | None = None
) -> list[str]:
    """Write a manifest in another toolkit's format.

    Args:
        manifest: what to write.
        out: file (fairseq, nemo, table) or folder (kaldi, lhotse, audiofolder, dataset).
        form: which format.
        columns: for a table, our column -> its name there.

    Returns:
        Notes on what the format has no place for.

    Raises:
        ManifestError: a name or value that the format would read as another one.
    """
    match form:
        case "fairseq":
            return write_fairseq(out, manifest)
        case "kaldi":
            return write_kaldi(out, manifest)
        case "nemo":
            write_nemo(out, manifest)
        case "lhotse":
            write_lhotse(out, manifest)
        case "audiofolder":
            write_audio_folder(out, manifest)
        case "dataset":
            return write_saved_dataset(out, manifest)
        case "table":
            write_table(out, manifest, columns or {})
    return []
