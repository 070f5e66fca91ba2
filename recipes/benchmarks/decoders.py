"""Beam searches with a lexicon and an n-gram: ours, flashlight's through torchaudio, and two that spell freely.

Each contender is a function from (frames, vocab) log-probabilities to a text, built before the clock starts.
pyctcdecode and ctc-beam-decoder know no lexicon: they are told its words and think less of others. They prune by
settings of their own, which are left as they come. What is not installed is left out, and `left_out` says so.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import OURS, Outcome
from torch import Tensor

from speechssl.asr.decoding.decoders import Flashlight, WithLexicon, build_decoder
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.hypothesis import Decoder
from speechssl.asr.decoding.search import SearchConfig
from speechssl.asr.lm.estimate import build_model
from speechssl.asr.lm.kneser_ney import NGramConfig
from speechssl.asr.lm.lexicon import Lexicon
from speechssl.asr.lm.sentences import read_sentences
from speechssl.asr.scoring.wer import score_texts
from speechssl.data.utterances import Utterance
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY, Vocabulary

__all__ = ["PURE", "Heard", "Language", "build_language", "decoders", "error_rate", "left_out", "simulate", "turn"]

PURE = "speechssl, no native package"
FREE_SPELLERS = {"pyctcdecode": "pyctcdecode", "ctc-beam-decoder": "ctc_beam_decoder"}  # module by name
FLASHLIGHT = {"flashlight-text": "flashlight", "kenlm": "kenlm"}  # modules by package
NEEDED = {  # by contender
    OURS: FLASHLIGHT,
    "torchaudio": FLASHLIGHT,
    "pyctcdecode": {"pyctcdecode": "pyctcdecode", "kenlm": "kenlm"},
    "ctc-beam-decoder": {"ctc-beam-decoder": "ctc_beam_decoder"},
}
HOP = 320  # samples a frame, of simulated speech

Decode = Callable[[Tensor], str]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Speech as a recogniser heard it."""

    vocabulary: Vocabulary
    log_probs: dict[str, Tensor]  # (frames, vocab) by utterance id
    references: dict[str, str]
    audio_s: float


@dataclass(frozen=True, kw_only=True)
class Language:
    """What decoders know of the language."""

    arpa: Path
    lexicon: Path
    words: tuple[str, ...]


def simulate(rows: Sequence[Utterance], *, seed: int) -> Heard:
    """Make up log-probabilities: each text spread over the frames of its audio, with noise.

    Good for timing only. Utterances without text, or with more letters than half their frames, are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = {row.id: row.text for row in rows if row.text and 2 * len(row.text) < row.num_samples_16k // HOP}
    vocabulary = Vocabulary.from_texts(texts.values())
    log_probs, audio_s = {}, 0.0
    for row in rows:
        if row.id in texts:
            ids = vocabulary.encode(texts[row.id], where=row.id)
            logits = 1.5 * torch.randn((row.num_samples_16k // HOP, len(vocabulary)), generator=generator)
            places = torch.linspace(0, len(logits) - 1, len(ids)).long()
            logits[:, BLANK] += 6.0
            logits[places, BLANK] -= 6.0
            logits[places, torch.tensor(ids)] += 6.0
            log_probs[row.id] = logits.log_softmax(-1)
            audio_s += row.duration_s
    references = {key: vocabulary.text.apply(text) for key, text in texts.items()}
    return Heard(vocabulary=vocabulary, log_probs=log_probs, references=references, audio_s=audio_s)


def build_language(texts: Sequence[Path], vocabulary: Vocabulary, folder: Path, *, order: int = 4) -> Language:
    """Build an n-gram of the texts' words and their lexicon into a folder."""
    arpa, path = folder / "words.arpa", folder / "lexicon.tsv"
    build_model(texts, arpa, NGramConfig(order=order), change=vocabulary.text.apply)
    lexicon, _ = Lexicon.from_sentences(read_sentences(texts, change=vocabulary.text.apply), vocabulary)
    lexicon.write(path)
    return Language(arpa=arpa, lexicon=path, words=lexicon.words)


def left_out() -> dict[str, str]:
    """List the contenders that cannot be measured here, each with the packages that are not installed."""
    missing = {
        name: [package for package, module in modules.items() if importlib.util.find_spec(module) is None]
        for name, modules in NEEDED.items()
    }
    return {name: ", ".join(packages) for name, packages in missing.items() if packages}


def decoders(vocabulary: Vocabulary, language: Language, weights: Weights, beam: int) -> dict[str, Decode]:
    """Build every decoder that is installed, by name; ours searches with flashlight, and without any package."""
    given = {"lexicon": language.lexicon, "lm": language.arpa, "weights": weights}
    search = SearchConfig(beam=beam, add_paths=False)
    missing = left_out()
    found: dict[str, Decode] = {}
    if OURS not in missing:
        found[OURS] = partial(_ours, build_decoder(Flashlight(**given, search=search), vocabulary))
        found["torchaudio"] = _torchaudio(vocabulary, language, weights, beam)
    found[PURE] = partial(_ours, build_decoder(WithLexicon(**given, search=search), vocabulary))
    for name, module in FREE_SPELLERS.items():
        if name not in missing:
            found[name] = _free_speller(importlib.import_module(module), vocabulary, language, weights, beam)
    return found


def turn(decode: Decode, heard: Heard, texts: dict[str, str]) -> Callable[[], Outcome]:
    """Return what decodes everything once and leaves the texts in `texts`."""

    def work() -> Outcome:
        texts.update((key, decode(log_probs)) for key, log_probs in heard.log_probs.items())
        return Outcome(loss=0.0, predicted=len(texts), audio_s=heard.audio_s)

    return work


def error_rate(heard: Heard, texts: Mapping[str, str]) -> tuple[float, float]:
    """Return CER and WER."""
    scores = score_texts(heard.references, texts)
    return scores.cer, scores.wer


def _ours(decoder: Decoder, log_probs: Tensor) -> str:
    return decoder.decode(log_probs[None], torch.tensor([len(log_probs)]))[0][0].text


def _torchaudio(vocabulary: Vocabulary, language: Language, weights: Weights, beam: int) -> Decode:
    from torchaudio.models.decoder import ctc_decoder

    decoder = ctc_decoder(
        lexicon=str(language.lexicon),
        tokens=list(vocabulary.tokens),
        lm=str(language.arpa),
        nbest=1,
        beam_size=beam,
        lm_weight=weights.lm_weight,
        word_score=weights.word_score,
        blank_token=vocabulary.tokens[BLANK],
        sil_token=WORD_BOUNDARY,
    )

    def decode(log_probs: Tensor) -> str:
        found = decoder(log_probs[None])[0]
        return " ".join(found[0].words) if found else ""

    return decode


def _free_speller(module: Any, vocabulary: Vocabulary, language: Language, weights: Weights, beam: int) -> Decode:
    special = {vocabulary.tokens[BLANK]: "", WORD_BOUNDARY: " "}
    decoder = module.build_ctcdecoder(
        [special.get(token, token) for token in vocabulary.tokens],
        kenlm_model_path=str(language.arpa),
        unigrams=list(dict.fromkeys(language.words)),
        alpha=weights.lm_weight / math.log(10),  # it counts in natural logarithms, the others in those of the file
        beta=weights.word_score,
    )

    def decode(log_probs: Tensor) -> str:
        return str(decoder.decode(log_probs.numpy(), beam_width=beam)).strip()

    return decode
