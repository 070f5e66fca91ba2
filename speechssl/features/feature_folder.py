"""Reads a folder of features in any format: description, index, and the rows of each utterance."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from speechssl.errors import LabelError
from speechssl.features.description import Entry, FeaturesDescription, FormatName, Stream, read_description, read_index
from speechssl.features.feature_format import Array, Format
from speechssl.features.hdf5_features import Hdf5
from speechssl.features.lhotse_features import Lhotse
from speechssl.features.npy_features import Npy
from speechssl.features.parquet_features import Parquet
from speechssl.features.safetensors_features import Safetensors
from speechssl.features.tar_features import Shards
from speechssl.features.zarr_features import Zarr

__all__ = ["FORMATS", "FeatureFolder"]

FORMATS: dict[FormatName, Format] = {
    "npy": Npy(),
    "safetensors": Safetensors(),
    "shards": Shards(),
    "hdf5": Hdf5(),
    "zarr": Zarr(),
    "parquet": Parquet(),
    "lhotse": Lhotse(),
}


@dataclass(frozen=True)
class FeatureFolder:
    """A folder written by `speechssl extract`."""

    path: Path

    @cached_property
    def description(self) -> FeaturesDescription:
        """The description.

        Raises:
            LabelError: the folder holds no features, or is incomplete.
        """
        return read_description(self.path)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The entries of the index, by id.

        Raises:
            LabelError: the index is damaged, or belongs to other features.
        """
        entries = read_index(self.path)
        if len(entries) != self.description.utterances:
            raise LabelError(
                f"{self.path}: the index lists {len(entries)} utterances, {self.description.utterances} were written; "
                "copy the folder again, or extract the features again"
            )
        return entries

    def stream(self, layer: int | None = None) -> Stream:
        """Return the stream of a layer, counted from 1; None for the only stream.

        Raises:
            LabelError: the layer is missing.
        """
        streams = self.description.streams
        if len(streams) == 1 and (layer is None or streams[0].layer == 0):
            return streams[0]
        found = next((stream for stream in streams if stream.layer == layer), None)
        if found is None:
            there = ", ".join(str(stream.layer) for stream in streams)
            raise LabelError(
                f"{self.path}: holds layer {there}, not {layer}; name one of these, or extract the layer into another "
                "folder"
            )
        return found

    def read(self, ids: Iterable[str] | None = None, *, layer: int | None = None) -> Iterator[tuple[str, Array]]:
        """Yield ids with their features, (rows, dim) float32 or float16, as stored.

        Args:
            ids: ids of the utterances, in order; None for all, in the order of the manifest, which is the fastest.
            layer: counted from 1; None if there is only one.

        Raises:
            LabelError: an utterance or the layer is missing, or a file is damaged.
            PackageError: the package for the format is not installed.
        """
        description, stream = self.description, self.stream(layer)
        form = FORMATS[description.format]
        form.require()
        with form.reader(self.path, stream, description) as reader:
            for key in self.entries if ids is None else ids:
                entry = self.entries.get(key)
                if entry is None:
                    raise LabelError(f"{self.path}: holds no features of {key}{self._why(key)}")
                array = reader.read(entry)
                if array.shape != (entry.rows, stream.dim):
                    raise LabelError(
                        f"{self.path}: {stream.name} of {key} has the shape {array.shape}, the index says "
                        f"{(entry.rows, stream.dim)}; extract the features again"
                    )
                yield key, array

    def _why(self, key: str) -> str:
        reason = self.description.left_out.get(key)
        return f": it was left out ({reason})" if reason else "; extract them from a manifest that lists it"
