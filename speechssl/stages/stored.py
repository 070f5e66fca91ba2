"""Features written by `speechssl extract`, as read by `cluster`: utterances in turn, or points for k-means."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import LabelError
from speechssl.features.feature_folder import FeatureFolder
from speechssl.parallel import Ranks
from speechssl.stages.feature_source import FeatureKind, Piece
from speechssl.stages.reading_data import DataConfig
from speechssl.train.runlog import progress_bar
from speechssl.units.feature_shards import ShardPoints
from speechssl.units.points import Points, StreamPoints

__all__ = ["StoredFeatures", "stored_features"]


@dataclass(frozen=True, kw_only=True)
class StoredFeatures(FeatureKind):
    """One layer, or the only stream, in a folder of features."""

    folder: FeatureFolder

    @property
    def manifest(self) -> Manifest:
        """The utterances with features; the paths of the audio are not known."""
        rows = [
            Utterance(id=entry.id, path=entry.file, num_samples=entry.samples, sample_rate=SAMPLE_RATE, channels=1)
            for entry in self.folder.entries.values()
        ]
        return Manifest(root=self.folder.path, utterances=tuple(rows))

    def pieces(self, data: DataConfig, rows: Sequence[Utterance], *, title: str) -> Iterator[Piece]:
        """Yield utterances, one piece each; missing ones raise or are skipped, like bad audio.

        Raises:
            LabelError: an utterance is missing, or its features belong to other audio.
        """
        with progress_bar(title, len(rows)) as (bar, task):
            present = self._present(data, bar.track(rows, task_id=task))
            waiting: list[Utterance] = []

            def ids() -> Iterator[str]:
                for row in present:
                    waiting.append(row)
                    yield row.id

            for _, array in self.folder.read(ids(), layer=self._layer):
                frames = _tensor(array)
                yield Piece(row=waiting.pop(), layers=[frames], start=0, num_frames=len(frames))

    def points(self, data: DataConfig, rows: Sequence[Utterance], ranks: Ranks) -> Points:
        """Return this process's share of all frames of the utterances for a k-means fit, without loading them.

        Shards are memory-mapped if there is one for each process; other files are read at every pass.

        Raises:
            LabelError: an utterance is missing, its features belong to other audio, or a process gets no frames.
        """
        present = [row.id for row in self._present(data, rows)]
        is_all = len(present) == len(self.folder.entries)
        num_files = len({entry.file for entry in self.folder.entries.values()})
        if self.folder.description.format == "shards" and is_all and num_files >= ranks.world_size:
            stream = self.folder.stream(self._layer)
            return ShardPoints(self.folder.path / stream.name, rank=ranks.rank, world_size=ranks.world_size)
        share = present[ranks.rank :: ranks.world_size]
        num_points = sum(self.folder.entries[key].rows for key in share)
        return StreamPoints(
            lambda: (_tensor(array) for _, array in self.folder.read(share, layer=self._layer)), num_points
        )

    @property
    def _layer(self) -> int | None:
        return self.layers[0] or None

    def _present(self, data: DataConfig, rows: Iterable[Utterance]) -> Iterator[Utterance]:
        """Yield the utterances that have features."""
        for row in rows:
            entry = self.folder.entries.get(row.id)
            if entry is not None and entry.samples != row.num_samples_16k:
                raise LabelError(
                    f"{self.folder.path}: features of {row.id} cover {entry.samples} samples at 16 kHz, the manifest "
                    f"lists {row.num_samples_16k}; extract the features of this manifest"
                )
            if entry is not None:
                yield row
            elif data.bad_audio == "stop":
                reason = self.folder.description.left_out.get(row.id)
                raise LabelError(
                    f"{self.folder.path}: holds no features of {row.id}{f' ({reason})' if reason else ''}; extract the "
                    "features of this manifest, or set data.bad_audio=skip"
                )


def stored_features(path: Path, layer: int) -> StoredFeatures:
    """Open a layer in a folder of features, or its only stream if that is not a layer.

    Args:
        path: the folder.
        layer: number of the layer, counted from 1.

    Raises:
        LabelError: the path is not such a folder, holds means instead of frames, or lacks the layer.
    """
    folder = FeatureFolder(path)
    if not path.is_dir():
        raise LabelError(f"{path}: expected mfcc, log_mel, layer or a folder of features; correct features=")
    description = folder.description
    if description.pool != "none":
        raise LabelError(
            f"{path}: holds means ({description.pool}), units need frames; extract the features with --pool none"
        )
    stream = folder.stream(layer)
    settings = {name: value for name, value in stream.settings.items() if not (stream.layer and name == "layer")}
    name = stream.title.removesuffix(f" layer {stream.layer}") if stream.layer else stream.title
    return StoredFeatures(
        name=name,
        layers=(stream.layer,),
        dim=stream.dim,
        hop=description.hop,
        window=description.window,
        settings=settings,
        has_layers=bool(stream.layer),
        folder=folder,
    )


def _tensor(array: np.ndarray) -> Tensor:
    """Return a (frames, dim) tensor; read-only memory maps are copied."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
