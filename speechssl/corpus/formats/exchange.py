"""Imports and exports manifests in other toolkits' formats: one function each, with a case per format."""

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
    """Import another toolkit's list of audio; every header is read and compared with the list.

    Args:
        source: file or folder.
        form: its format.
        root: folder that paths are relative to and may not leave; None for the root in fairseq's table, or else the
            folder of the list. It is required for a saved dataset, whose audio is written there.
        columns: for tables, NeMo's manifests and datasets, our column -> its name there.
        progress: wraps the iterable of headers, given their number.

    Returns:
        The manifest, and notes on what was not used.

    Raises:
        ManifestError: the list does not parse, or holds something that a manifest cannot.
        AudioError: a file cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    named = columns or {}
    if named and form in ("fairseq", "kaldi", "lhotse"):
        raise ManifestError(f"columns: {form} has fixed names, found {dict(named)}; leave --columns out")
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
    """Export a manifest in another toolkit's format.

    Args:
        manifest: the manifest.
        out: file (fairseq, nemo, table) or folder (kaldi, lhotse, audiofolder, dataset).
        form: the format.
        columns: for a table, our column -> its name there.

    Returns:
        Notes on columns that the format cannot hold.

    Raises:
        ManifestError: the format would misread a name or value.
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
