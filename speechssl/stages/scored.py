"""Transcripts with measures of how sure the recogniser is: of the pool, which gets pseudo-labels, and of dev."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from speechssl.asr.confidence import Measure, measures_of
from speechssl.asr.decoding.decoders import DecoderConfig, Greedy, build_decoder
from speechssl.asr.decoding.hypothesis import merged
from speechssl.asr.lm.arpa import read_arpa
from speechssl.asr.transcripts.timed import Token
from speechssl.data.utterances import Manifest, Utterance
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import SavedModel
from speechssl.model.dropout import Dropout
from speechssl.parallel import pick_device
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.selftrain_recipe import KeepConfig

__all__ = ["Scored", "transcribe_scored"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A transcript and its measures."""

    row: Utterance
    text: str
    greedy: str  # transcript without a search
    measures: Mapping[Measure, float]
    tokens: tuple[Token, ...] = ()  # of the transcript, with their posteriors

    @property
    def letters_per_second(self) -> float:
        """Letters a second, spaces included."""
        return len(self.text) / self.row.duration_s


def transcribe_scored(
    saved: SavedModel,
    manifest: Manifest,
    decoder: DecoderConfig,
    keep: KeepConfig,
    *,
    seed: int,
    skips: list[str] | None,
) -> list[Scored]:
    """Transcribe every utterance and measure how sure the recogniser is.

    Args:
        saved: the recogniser.
        manifest: the utterances.
        decoder: the decoder of the transcripts; its language model, if any, is one of the measures.
        keep: says where the second opinion comes from.
        seed: seed of the draw with dropout.
        skips: extended by the reason for each utterance that cannot be used; None raises instead.

    Returns:
        The transcripts in the manifest's order.
    """
    model, vocabulary = saved.recogniser()
    lm_path = None if isinstance(decoder, Greedy) else decoder.lm
    lm = None if lm_path is None else read_arpa(lm_path)
    decode = build_decoder(decoder, vocabulary, lm=lm).decode
    others = list(_second_opinions(saved, manifest, keep, seed=seed, may_skip=skips is not None))
    rows = {row.id: row for row in manifest.utterances}
    found: dict[str, Scored] = {}
    audio = saved.description.audio
    for key, log_probs in log_posteriors(model.to(pick_device()), manifest, audio, PosteriorConfig(), skipped=skips):
        best = decode(log_probs[None], torch.tensor([len(log_probs)]))[0][0]
        found[key] = Scored(
            row=rows[key],
            text=best.text,
            greedy=vocabulary.decode(merged(log_probs.argmax(-1))),
            measures=measures_of(log_probs, best.text, best.tokens, lm=lm, others=[each[key] for each in others]),
            tokens=tuple(best.tokens),
        )
    return [found[row.id] for row in manifest.utterances if row.id in found]


def _second_opinions(
    saved: SavedModel, manifest: Manifest, keep: KeepConfig, *, seed: int, may_skip: bool
) -> Iterator[dict[str, str]]:
    """Yield the greedy transcripts of another recogniser, or of draws of the same with dropout; `keep` says which."""
    if keep.second == "none":
        return
    is_draw = keep.second == "dropout"
    other = saved if is_draw else read_saved(Path(keep.second))
    model, vocabulary = other.recogniser()
    for module in model.modules():
        if is_draw and isinstance(module, Dropout):
            module.probability = keep.dropout
            module.train()
    device, audio = pick_device(), other.description.audio
    for draw in range(keep.draws):
        skipped: list[str] | None = [] if may_skip else None
        with torch.random.fork_rng():
            torch.manual_seed(seed + draw)
            posteriors = log_posteriors(model.to(device), manifest, audio, PosteriorConfig(), skipped=skipped)
            yield {key: vocabulary.decode(merged(log_probs.argmax(-1))) for key, log_probs in posteriors}
