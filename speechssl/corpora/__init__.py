"""Real corpora made ready for training: fetched, decoded, split, listed in manifests."""

from speechssl.corpora.corpus import ClipCollector, Corpus, Findings
from speechssl.corpora.prepare import prepare_corpus
from speechssl.corpora.registry import CORPORA, all_corpora, corpora_named, describe_corpora, read_corpora
from speechssl.corpora.splits import SplitRule
from speechssl.corpora.text import Spoken, normalize_text

__all__ = [
    "CORPORA",
    "ClipCollector",
    "Corpus",
    "Findings",
    "SplitRule",
    "Spoken",
    "all_corpora",
    "corpora_named",
    "describe_corpora",
    "normalize_text",
    "prepare_corpus",
    "read_corpora",
]
