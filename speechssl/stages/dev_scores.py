"""Metrics of a recogniser on the dev set during training: error rates, kinds of errors, blanks, and example texts."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from speechssl.asr.decoding.hypothesis import merged
from speechssl.asr.scoring.wer import ErrorRate, score_texts
from speechssl.atomic import write_atomically
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY, Vocabulary

__all__ = ["DevSet", "hear", "texts_of_others"]

_EXAMPLES = 3
_WIDTH = 110  # characters shown of an example


class Heard(NamedTuple):
    """A model's hypothesis for one utterance."""

    id: str
    text: str
    blanks: int  # frames whose most probable token is the blank
    frames: int


@dataclass(frozen=True, kw_only=True)
class DevSet:
    """Scorer of a model on the same utterances at each call."""

    texts: Mapping[str, str]  # reference texts by utterance id
    dataset: SpeechDataset
    vocabulary: Vocabulary
    table: Path | None = None  # file for the hypotheses of the last call

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics, first the one that selects the best step, and print some texts.

        Error rates are those of characters (`dev_cer`) and words, or of phones (`dev_per`) first. Insertions,
        deletions and substitutions are shares of the tokens of the first rate, and add up to it. `dev_others` is the
        first rate against texts of other utterances of similar length: a model that scores no better on the right
        texts ignores the audio.
        """
        assert isinstance(model, CTCModel)
        skipped: list[str] = []
        heard = {each.id: each for each in hear(model, self.vocabulary, self.dataset, skipped=skipped)}
        references = {key: self.vocabulary.reference(self.texts[key]) for key in heard}
        rates, errors = self._score(references, {key: each.text for key, each in heard.items()})
        self._show(references, heard)
        others = texts_of_others(references)
        if others:
            rates["dev_others"] = next(iter(self._score(others, {key: heard[key].text for key in others})[0].values()))
        return rates | {
            "dev_skipped": len(skipped),
            "dev_blank_share": sum(each.blanks for each in heard.values())
            / sum(each.frames for each in heard.values()),
            "dev_empty_share": sum(not each.text for each in heard.values()) / len(heard),
            "dev_insertions": errors.insertions / errors.reference,
            "dev_deletions": errors.deletions / errors.reference,
            "dev_substitutions": errors.substitutions / errors.reference,
        }

    def _score(
        self, references: Mapping[str, str], hypotheses: Mapping[str, str]
    ) -> tuple[dict[str, float], ErrorRate]:
        if self.vocabulary.written_in != "phones":
            scores = score_texts(references, hypotheses)
            return {"dev_cer": scores.cer, "dev_wer": scores.wer}, scores.characters
        phones = score_texts(*({key: _phones(text) for key, text in each.items()} for each in (references, hypotheses)))
        words = score_texts(*({key: _dotted(text) for key, text in each.items()} for each in (references, hypotheses)))
        return {"dev_per": phones.wer, "dev_wer": words.wer}, phones.words

    def _show(self, references: Mapping[str, str], heard: Mapping[str, Heard]) -> None:
        for key in [key for key in self.texts if key in heard][:_EXAMPLES]:
            print(f"dev {key}  reference:  {references[key][:_WIDTH]}", file=sys.stderr)
            print(f"    {' ' * len(key)}  hypothesis: {heard[key].text[:_WIDTH] or '(nothing)'}", file=sys.stderr)
        if self.table is not None:
            rows = "".join(f"{key}\t{heard[key].text}\n" for key in sorted(heard))
            write_atomically(self.table, "id\ttext\n" + rows)


@torch.no_grad()
def hear(
    model: CTCModel,
    vocabulary: Vocabulary,
    dataset: SpeechDataset,
    *,
    seconds: float = 120.0,
    skipped: list[str] | None = None,
) -> Iterator[Heard]:
    """Yield the greedy hypothesis of every utterance, longest first.

    Args:
        model: CTC model in evaluation mode.
        vocabulary: vocabulary of the model.
        dataset: the utterances.
        seconds: seconds of audio in a batch, padding counted.
        skipped: extended by the reason for each utterance left out, if the dataset skips bad audio.
    """
    device = next(model.parameters()).device
    for batch in load_in_order(dataset, seconds=seconds):
        if skipped is not None:
            skipped.extend(batch.skipped)
        if not batch.ids:
            continue
        logits, counts = model.logits(batch.to(device))
        for key, best, count in zip(batch.ids, logits.argmax(-1).cpu(), counts.tolist(), strict=True):
            path = best[:count]
            yield Heard(key, vocabulary.decode(merged(path)), int((path == BLANK).sum()), count)


def texts_of_others(references: Mapping[str, str]) -> dict[str, str]:
    """Map each utterance to another's text: the next longer one that differs; after the longest comes the shortest."""
    order = sorted(references, key=lambda key: (len(references[key]), key))
    texts = [references[key] for key in order]
    found = {}
    for place, key in enumerate(order):
        following = [*texts[place + 1 :], *texts[:place]]
        other = next((text for text in following if text != references[key]), None)
        if other is not None:
            found[key] = other
    return found


def _phones(text: str) -> str:
    return " ".join(phone for phone in text.split() if phone != WORD_BOUNDARY)


def _dotted(text: str) -> str:
    return " ".join(".".join(word.split()) for word in text.split(f" {WORD_BOUNDARY} "))
