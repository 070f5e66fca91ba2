"""Lhotse: numpy files as in its `numpy_files` storage, and a manifest per stream, `STREAM.features.jsonl.gz`.

Recordings have the ids of `speechssl manifest export` to Lhotse. Lhotse requires that the number of frames equals the
duration in hops, rounded; so the duration is that of the frames, shorter than the audio by less than a window. It also
requires a hop of whole samples, so the rate is always 16 kHz, at which the features were computed.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus.entries import recording_ids
from speechssl.data.utterances import Manifest, Utterance
from speechssl.features.description import Entry, FeaturesDescription, Stream
from speechssl.features.npy_features import Npy

__all__ = ["Lhotse"]


class Lhotse(Npy):
    """The format `lhotse`."""

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write the manifest of each stream, with absolute paths."""
        recordings = recording_ids(manifest)
        rows = {row.id: row for row in manifest.utterances}
        for stream in description.streams:
            lines = [
                json.dumps(_features(entry, rows[entry.id], recordings, stream, description.hop, folder))
                for entry in entries
            ]
            content = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)  # no time stamp
            write_atomically(folder / f"{stream.name}.features.jsonl.gz", content)


def _features(
    entry: Entry, row: Utterance, recordings: dict[str, str], stream: Stream, hop: int, folder: Path
) -> dict[str, Any]:
    channels = 0 if row.channels == 1 else [*range(row.channels)]
    return {
        "type": stream.title,
        "num_frames": entry.rows,
        "num_features": stream.dim,
        "frame_shift": hop / SAMPLE_RATE,
        "sampling_rate": SAMPLE_RATE,
        "start": row.start / row.sample_rate,
        "duration": entry.rows * hop / SAMPLE_RATE,
        "storage_type": "numpy_files",
        "storage_path": str((folder / stream.name).resolve()),
        "storage_key": entry.file,
        "recording_id": recordings[row.path],
        "channels": channels if row.channel is None else row.channel,
    }
