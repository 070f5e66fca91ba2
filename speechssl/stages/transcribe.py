"""Transcribe: fine-tuned model + manifest -> text by utterance id."""

from pathlib import Path

from speechssl.data.dataset import SpeechDataset
from speechssl.data.manifest import Manifest
from speechssl.parallel import pick_device
from speechssl.saved import SavedModel
from speechssl.stages.finetune import transcribe_manifest

__all__ = ["transcribe"]


def transcribe(run: Path, manifest: Manifest, *, skip_bad_audio: bool = False) -> tuple[dict[str, str], list[str]]:
    """Transcribe every utterance of a manifest with a fine-tuned model, of a run its best step.

    Args:
        run: folder of the run, or of a converted model.
        manifest: what to transcribe.
        skip_bad_audio: leave out files that cannot be used instead of raising.

    Returns:
        Text by utterance id, and the reasons of what was left out.
    """
    saved = SavedModel.read(run)
    model, vocabulary = saved.recogniser()
    model.to(pick_device())
    encoder = model.encoder.config
    dataset = SpeechDataset(
        manifest, saved.description.audio, hop=encoder.hop, window=encoder.window, skip_bad_audio=skip_bad_audio
    )
    skipped: list[str] = []
    return transcribe_manifest(model, vocabulary, dataset, skipped=skipped), skipped
