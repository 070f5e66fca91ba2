"""Transcribe: fine-tuned run + manifest -> text by utterance id."""

from pathlib import Path

from speechssl.data.dataset import SpeechDataset
from speechssl.data.manifest import Manifest
from speechssl.parallel import pick_device
from speechssl.stages.finetune import load_recogniser, transcribe_manifest

__all__ = ["transcribe"]


def transcribe(run: Path, manifest: Manifest, *, skip_bad_audio: bool = False) -> tuple[dict[str, str], list[str]]:
    """Transcribe every utterance of a manifest with the best step of a fine-tuning run.

    Args:
        run: folder of the run.
        manifest: what to transcribe.
        skip_bad_audio: leave out files that cannot be used instead of raising.

    Returns:
        Text by utterance id, and the reasons of what was left out.
    """
    model, vocabulary, config = load_recogniser(run)
    model.to(pick_device())
    encoder = model.encoder.config
    dataset = SpeechDataset(
        manifest, config.data.audio, hop=encoder.hop, window=encoder.window, skip_bad_audio=skip_bad_audio
    )
    skipped: list[str] = []
    return transcribe_manifest(model, vocabulary, dataset, skipped=skipped), skipped
