"""Prepares published corpora for training: fetches, decodes and splits them, and writes manifests."""

from speechssl.corpus.fetch.known_corpora import CORPORA, all_corpora, corpora_named, describe_corpora, read_corpora
from speechssl.corpus.fetch.preparing import prepare_corpus
from speechssl.corpus.fetch.source import ClipCollector, Corpus, Findings
from speechssl.corpus.fetch.splits import SplitRule
from speechssl.corpus.fetch.spoken_text import Spoken, normalize_text

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
