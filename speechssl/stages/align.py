"""Stage `align`: a fine-tuned model and known texts -> when each word and letter was said."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from speechssl.asr.transcripts.timed import Token, Transcript, tokens_of, words_of
from speechssl.audio.reading import AudioConfig
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError, VocabularyError
from speechssl.extras import import_torchaudio
from speechssl.hub.model_formats import read_saved
from speechssl.model.precision import choose_precision, pack
from speechssl.parallel import pick_device
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import BLANK, Vocabulary, frames_needed

__all__ = ["align", "align_by"]


def align(
    run: Path,
    manifest: Manifest,
    config: PosteriorConfig | None = None,
    *,
    skip: bool = False,
    settings: str | None = None,
) -> tuple[list[Transcript], list[str]]:
    """Align the texts of a manifest with its audio.

    Args:
        run: folder of a fine-tuning run, or of a converted model.
        manifest: utterances with their texts.
        config: batches and windows; None for the defaults.
        skip: leave out utterances that cannot be read or aligned instead of raising.
        settings: prefix of the settings that errors name: `--` for options of a command.

    Returns:
        Transcripts in the manifest's order, and the reason for each utterance left out.

    Raises:
        ManifestError: an utterance has no text.
        VocabularyError: a text holds letters outside the vocabulary, or needs more frames than there are.
    """
    saved = read_saved(run)
    model, vocabulary = saved.recogniser(shares=True)
    device, audio = pick_device(), saved.description.audio
    del saved  # whose tensors packing is to release one by one
    model = pack(model.to(device), choose_precision(config.precision if config else "float32", device), in_place=True)
    return align_by(model, vocabulary, manifest, audio, config, skip=skip, settings=settings)


def align_by(
    model: CTCModel,
    vocabulary: Vocabulary,
    manifest: Manifest,
    audio: AudioConfig,
    config: PosteriorConfig | None = None,
    *,
    skip: bool = False,
    settings: str | None = None,
) -> tuple[list[Transcript], list[str]]:
    """Align the texts of a manifest with its audio by a model in memory, as `align` does.

    Args:
        model: CTC model in evaluation mode, on its device.
        vocabulary: vocabulary of the model.
        manifest: utterances with their texts.
        audio: how the model's audio is read.
        config: batches and windows; None for the defaults.
        skip: leave out utterances that cannot be read or aligned instead of raising.
        settings: prefix of the settings that errors name.

    Raises:
        ManifestError: an utterance has no text.
        VocabularyError: as `align`.
    """
    encoder = model.encoder.config
    untranscribed = [row.id for row in manifest.utterances if not row.text]
    if untranscribed:
        raise ManifestError(
            f"{len(untranscribed)} utterances have no text: {', '.join(untranscribed[:3])}; "
            "name their texts with --text, fill the manifest's text column, or keep the others with "
            "`speechssl manifest filter --text`"
        )
    rows = {row.id: row for row in manifest.utterances}
    found: dict[str, Transcript] = {}
    skipped: list[str] = []
    posteriors = log_posteriors(
        model, manifest, audio, config or PosteriorConfig(), skipped=skipped if skip else None, settings=settings
    )
    for key, log_probs in posteriors:
        row = rows[key]
        try:
            ids = vocabulary.encode(row.text or "", where=key)
            tokens = _align_tokens(log_probs, ids, where=key)
        except VocabularyError as error:
            if not skip:
                raise
            skipped.append(str(error))
            continue
        words, letters = words_of(tokens, vocabulary, hop=encoder.hop, window=encoder.window)
        found[key] = Transcript(
            id=key,
            text=vocabulary.reference(row.text or ""),
            duration_s=row.duration_s,
            words=words,
            letters=letters,
            path=row.path,
            start_s=row.start / row.sample_rate,
        )
    return [found[row.id] for row in manifest.utterances if row.id in found], skipped


def _align_tokens(log_probs: Tensor, ids: list[int], *, where: str) -> list[Token]:
    """Return the tokens with the frames they occupy on the most probable path through (frames, vocab)."""
    required = frames_needed(ids)
    if required > len(log_probs):
        raise VocabularyError(
            f"{where}: the text needs {required} frames, the audio makes {len(log_probs)}; correct the transcript"
        )
    with warnings.catch_warnings():  # torchaudio announces its removal after 2.9, which still has it
        warnings.filterwarnings("ignore", message=".*forced_align has been deprecated")
        path, scores = import_torchaudio("functional").forced_align(log_probs[None], torch.tensor([ids]), blank=BLANK)
    return tokens_of(path[0].tolist(), scores[0].exp().tolist())
