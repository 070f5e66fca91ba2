"""Stage `transcribe`: fine-tuned model + speech -> texts with times."""

from pathlib import Path

import torch

from speechssl.asr.decoding.decoders import Beam, Flashlight, Greedy, WithLexicon, build_decoder
from speechssl.asr.transcripts.timed import Transcript, words_of
from speechssl.audio.reading import AudioConfig
from speechssl.data.shifted import Shifted
from speechssl.data.utterances import Manifest
from speechssl.hub.model_formats import read_saved
from speechssl.model.precision import choose_precision, pack
from speechssl.parallel import pick_device
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import Vocabulary

__all__ = ["transcribe", "transcribe_by"]


def transcribe(
    run: Path,
    manifest: Manifest,
    config: PosteriorConfig | None = None,
    *,
    decoder: Greedy | Beam | WithLexicon | Flashlight | None = None,
    skip_bad: bool = False,
    settings: str | None = None,
) -> tuple[list[Transcript], list[str]]:
    """Transcribe every utterance of a manifest with a fine-tuned model, or with the best step of a run.

    Args:
        run: folder of the run, or of a converted model.
        manifest: utterances to transcribe.
        config: batches and windows; None for the defaults.
        decoder: the decoder; None for greedy decoding.
        skip_bad: leave out files that cannot be used instead of raising.
        settings: prefix of the settings that errors name: `--` for options of a command.

    Returns:
        Transcripts in the manifest's order, and the reason for each utterance left out.
    """
    saved = read_saved(run)
    model, vocabulary = saved.recogniser(shares=True)
    device, audio = pick_device(), saved.description.audio
    del saved  # whose tensors packing is to release one by one
    model = pack(model.to(device), choose_precision(config.precision if config else "float32", device), in_place=True)
    return transcribe_by(
        model, vocabulary, manifest, audio, config, decoder=decoder, skip_bad=skip_bad, settings=settings
    )


def transcribe_by(
    model: CTCModel,
    vocabulary: Vocabulary,
    manifest: Manifest,
    audio: AudioConfig,
    config: PosteriorConfig | None = None,
    *,
    decoder: Greedy | Beam | WithLexicon | Flashlight | None = None,
    skip_bad: bool = False,
    settings: str | None = None,
) -> tuple[list[Transcript], list[str]]:
    """Transcribe every utterance of a manifest with a model in memory, as `transcribe` does.

    Args:
        model: CTC model in evaluation mode, on its device.
        vocabulary: vocabulary of the model.
        manifest: utterances to transcribe.
        audio: how the model's audio is read.
        config: batches and windows; None for the defaults.
        decoder: the decoder; None for greedy decoding.
        skip_bad: leave out files that cannot be used instead of raising.
        settings: prefix of the settings that errors name.
    """
    decode = build_decoder(decoder or Greedy(), vocabulary).decode
    encoder = model.encoder.config
    rows = {row.id: row for row in manifest.utterances}
    skipped: list[str] = []
    found: dict[str, Transcript] = {}
    posteriors = log_posteriors(
        model,
        manifest,
        audio,
        config or PosteriorConfig(),
        skipped=skipped if skip_bad else None,
        settings=settings,
    )
    for key, log_probs in posteriors:
        (hypotheses,) = decode(log_probs[None], torch.tensor([len(log_probs)]))
        best = hypotheses[0]
        words, letters = words_of(best.tokens, vocabulary, hop=encoder.hop, window=encoder.window)
        found[key] = Transcript(
            id=key,
            text=best.text,
            duration_s=rows[key].duration_s,
            words=words,
            letters=letters,
            path=rows[key].path,
            start_s=rows[key].start / rows[key].sample_rate,
            shift=str(manifest.shift) if isinstance(manifest, Shifted) else None,
            alternatives=tuple((each.text, each.score) for each in hypotheses) if len(hypotheses) > 1 else (),
        )
    return [found[row.id] for row in manifest.utterances if row.id in found], skipped
