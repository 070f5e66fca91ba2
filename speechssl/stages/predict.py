"""Stage `predict`: a trained head on a manifest: a table of classes, values, or intervals of frames."""

from collections.abc import Iterator
from pathlib import Path

from speechssl.atomic import atomic
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError
from speechssl.stages.head_folder import LoadedHead
from speechssl.stages.head_tables import Answered, ctm, frame_table, utterance_table
from speechssl.stages.reading_data import DataConfig

__all__ = ["predict_table"]


def predict_table(loaded: LoadedHead, data: DataConfig, manifest: Manifest, out: Path) -> int:
    """Write the predictions for every utterance, and return their number.

    Args:
        loaded: the head.
        data: how audio is read, and whether bad audio stops the run or is skipped.
        manifest: utterances.
        out: file to write: CTM if it ends in `.ctm` and the head classifies frames, else a table.

    Raises:
        AudioError: a file cannot be used.
        ManifestError: the output is a CTM, and the head does not classify frames.
    """
    about = loaded.description
    is_ctm, is_frames = out.suffix.lower() == ".ctm", loaded.head.answers == "frame_classes"
    if is_ctm and not is_frames:
        raise ManifestError(f"{out}: a CTM holds intervals, the head predicts one answer per utterance; name a .tsv")
    count = 0

    def rows() -> Iterator[Answered]:
        nonlocal count
        for row, found in loaded.predict_manifest(data, manifest):
            count += 1
            yield row, None, found

    if is_ctm:
        lines = ctm(rows(), about.classes, hop=about.hop, window=about.window)
    elif is_frames:
        lines = frame_table(rows(), about.classes, hop=about.hop, window=about.window, has_answers=False)
    else:
        lines = utterance_table(rows(), about.classes, has_answers=False)
    with atomic(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    return count
