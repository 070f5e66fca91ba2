"""How a recogniser does on a development set while it trains: error rates, kinds of errors, blanks, and some texts."""

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
_WIDTH = 110  # characters of an example


class Heard(NamedTuple):
    """What a model wrote of one utterance."""

    id: str
    text: str
    blanks: int  # frames whose most probable token is the blank
    frames: int


@dataclass(frozen=True, kw_only=True)
class DevSet:
    """Scores a model on the same utterances each time it is called."""

    texts: Mapping[str, str]  # of the manifest, by id
    dataset: SpeechDataset
    vocabulary: Vocabulary
    table: Path | None = None  # gets the text of every utterance, as of the last call

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the figures, the one that picks the best step first, and print some texts.

        Error rates are of characters (`dev_cer`) and words, of phones `dev_per` first; insertions, deletions and
        substitutions are shares of the first rate's tokens, and add up to it. `dev_others` is the first rate against
        the texts of other utterances of like length: what is as far from the right text has not been read.
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
            print(f"dev {key}  said: {references[key][:_WIDTH]}", file=sys.stderr)
            print(f"    {' ' * len(key)} heard: {heard[key].text[:_WIDTH] or '(nothing)'}", file=sys.stderr)
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
    """Yield what greedy decoding makes of every utterance, the longest first.

    Args:
        model: in evaluation mode.
        vocabulary: of the model.
        dataset: of the utterances.
        seconds: of audio in a batch, padding counted.
        skipped: gets the reasons why utterances were left out, where the dataset allows that.
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
    """Give each utterance the text of another: the next longer one that differs, behind the longest the shortest."""
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
