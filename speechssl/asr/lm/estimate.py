"""Build a language model from texts: the ARPA file, and a JSON file with its sources and settings."""

import dataclasses
import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from speechssl.asr.lm.arpa import write_arpa
from speechssl.asr.lm.kneser_ney import BEGIN_ID, Estimated, NGramConfig, estimate
from speechssl.asr.lm.sentences import as_letters, read_sentences
from speechssl.atomic import write_atomically
from speechssl.config import to_dict

__all__ = ["Built", "build_model"]


@dataclasses.dataclass(frozen=True)
class Built:
    """Result of building a model."""

    sentences: int
    tokens: int  # words, or letters, without sentence ends
    words: int  # distinct words, the three special ones included
    ngrams: tuple[int, ...]  # number of n-grams of each order, without pruned ones
    fallbacks: tuple[int, ...]  # orders with fixed discounts
    peak_mib: int  # peak memory of this process


def build_model(
    texts: Sequence[Path],
    out: Path,
    config: NGramConfig,
    *,
    letters: bool = False,
    change: Callable[[str], str] | None = None,
) -> Built:
    """Read texts, estimate a model, write it, and record sources and settings in OUT.json.

    Args:
        texts: see `read_sentences`.
        out: ARPA file.
        config: configuration of the model.
        letters: build a model of letters and word boundaries instead of words.
        change: normalisation of each line of text.

    Raises:
        VocabularyError: the files hold no words, or are not text.
    """
    sentences = read_sentences(texts, change=change)
    model = estimate(map(as_letters, sentences) if letters else sentences, config)
    write_arpa(out, model)
    counts = model.orders[0].ngrams.raw
    built = Built(
        sentences=int(counts[BEGIN_ID]),
        tokens=int(counts.sum() - 2 * counts[BEGIN_ID]),
        words=len(model.words),
        ngrams=tuple(int(order.is_kept.sum()) for order in model.orders),
        fallbacks=tuple(n for n, order in enumerate(model.orders, start=1) if order.discounts.is_fallback),
        peak_mib=_peak_mib(),
    )
    report = {
        "texts": [path.name for path in texts],
        "unit": "letters" if letters else "words",
        **to_dict(config),
        **{key: value for key, value in dataclasses.asdict(built).items() if key != "peak_mib"},
        "orders": _orders(model),
    }
    write_atomically(out.with_name(f"{out.name}.json"), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return built


def _orders(model: Estimated) -> list[dict[str, object]]:
    return [
        {
            "discounts": order.discounts.amounts[1:],
            "counts_of_counts": order.discounts.counts_of_counts,
            "discounts_are": "fixed: too few counts of counts" if order.discounts.is_fallback else "estimated",
        }
        for order in model.orders
    ]


def _peak_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
