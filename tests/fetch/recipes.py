"""The corpora that recipes/corpora define."""

from pathlib import Path

from speechssl.corpus.fetch import Corpus, read_corpora

FOLDER = Path(__file__).parents[2] / "recipes/corpora"


def corpus_of_recipes(name: str) -> Corpus:
    """Return a corpus by its name, whose first word is the name of its file."""
    return read_corpora(FOLDER / f"{name.partition('-')[0]}.py")[name]
