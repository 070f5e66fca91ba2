"""Phone ABX of features that lie on disk, ours or another toolkit's, in any of the four conditions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as numpy_format
from numpy.typing import NDArray

from speechssl.data.utterances import Manifest
from speechssl.downstream.abx import AbxScore, ItemFrames, score_abx
from speechssl.downstream.abx_cells import CONDITIONS, AbxConfig, AbxTask, plan_abx
from speechssl.downstream.phone_items import PhoneItem, is_item_file, items_of, read_items
from speechssl.errors import LabelError
from speechssl.features.description import DESCRIPTION
from speechssl.features.feature_folder import FeatureFolder
from speechssl.units.phone_alignments import read_phones

__all__ = ["FeatureAbx", "abx_of_features", "read_phone_items"]


@dataclass(frozen=True, kw_only=True)
class FeatureAbx:
    """Scores by condition, and what took no part."""

    scores: tuple[tuple[AbxTask, AbxScore], ...]
    no_triples: tuple[str, ...]  # why a condition has no score
    no_features: tuple[str, ...]  # ids of utterances
    no_frames: tuple[str, ...]  # an utterance id for each phone between two frames, or past the last


def read_phone_items(path: Path, manifest: Manifest | None, *, tier: str = "phones") -> list[PhoneItem]:
    """Read items from an `.item` file, or from alignments with the speakers of a manifest.

    Raises:
        LabelError: a file is damaged, a manifest is needed and missing, or no aligned utterance has a speaker.
    """
    if is_item_file(path):
        return read_items(path)
    if manifest is None:
        raise LabelError(f"{path}: alignments name no speakers; add --manifest with a column speaker, or an .item file")
    items = items_of(read_phones(path, tier=tier), {row.id: row.speaker for row in manifest.utterances if row.speaker})
    if not items:
        raise LabelError(f"{path}: aligns no utterance of the manifest that has a speaker; are both of one corpus?")
    return items


def abx_of_features(
    folder: Path, items: Sequence[PhoneItem], config: AbxConfig, *, layer: int | None = None, hop: int | None = None
) -> FeatureAbx:
    """Score features in every condition for which there are triples.

    Args:
        folder: features written by `speechssl extract`, or a folder of files `ID.npy`, (frames, dim) each.
        items: the phones.
        config: limits and distance.
        layer: counted from 1; None if the folder holds one.
        hop: samples at 16 kHz from one frame to the next; needed for files of another toolkit alone.

    Raises:
        LabelError: there are no features of these utterances, or no triples.
    """
    wanted = sorted({item.utterance for item in items})
    ours = FeatureFolder(folder) if (folder / DESCRIPTION).exists() else None
    if ours is not None:
        if hop is not None or ours.description.pool != "none":
            raise LabelError(
                f"{folder}: expected features of every frame, which know their hop; leave --hop out, and --pool"
            )
        hop, there = ours.description.hop, [key for key in wanted if key in ours.entries]
    else:
        if hop is None:
            raise LabelError(f"{folder}: has no {DESCRIPTION}; give --hop, the samples at 16 kHz from frame to frame")
        there = [key for key in wanted if (folder / f"{key}.npy").is_file()]
    if not there:
        raise LabelError(f"{folder}: holds no features of the phones' utterances, such as {wanted[0]!r}")
    is_there = set(there)
    items = [item for item in items if item.utterance in is_there]
    tasks, no_triples = [], []
    for speakers, context in CONDITIONS:
        try:
            tasks.append(plan_abx(items, speakers, context, config))
        except LabelError as error:
            no_triples.append(str(error))
    if not tasks:
        raise LabelError(no_triples[0])
    used = set[int]().union(*(task.used for task in tasks))
    there = sorted({items[number].utterance for number in used})
    read = ours.read(there, layer=layer) if ours is not None else _read_arrays(folder, there)
    frames: ItemFrames | None = None
    for key, array in read:
        frames = frames or ItemFrames(items, used, dim=array.shape[1], hop=hop)
        frames.add(key, np.asarray(array, np.float32))
    assert frames is not None
    return FeatureAbx(
        scores=tuple((task, score_abx(task, frames, config)) for task in tasks),
        no_triples=tuple(no_triples),
        no_features=tuple(key for key in wanted if key not in is_there),
        no_frames=tuple(items[number].utterance for number in sorted(used) if not frames.has(number)),
    )


def _read_arrays(folder: Path, ids: Iterable[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    dim = None
    for key in ids:
        path = folder / f"{key}.npy"
        try:
            with path.open("rb") as file:
                array = numpy_format.read_array(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LabelError(f"{path}: not an array of numpy ({error}); write the features again") from error
        if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != (dim or array.shape[1]):
            raise LabelError(
                f"{path}: expected numbers of shape (frames, {dim or 'dim'}), found {array.dtype} of {array.shape}"
            )
        dim = array.shape[1]
        yield key, array
