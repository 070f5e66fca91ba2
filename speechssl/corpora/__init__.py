"""Real corpora made ready for training: fetched, decoded, split, listed in manifests."""

from speechssl.corpora.prepare import CORPORA, describe_corpora, prepare_corpus

__all__ = ["CORPORA", "describe_corpora", "prepare_corpus"]
