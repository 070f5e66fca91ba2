"""Command line: `speechssl lm <what> ...`, language models for decoding: build them, judge them, spell their words.

Each command reads its arguments, calls one function of the package and prints what came of it.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from speechssl.config import from_dict
from speechssl.data.vocabulary import Vocabulary
from speechssl.errors import ConfigError, VocabularyError
from speechssl.lm.arpa import read_arpa
from speechssl.lm.build import build_model
from speechssl.lm.kneser_ney import NGramConfig
from speechssl.lm.lexicon import Lexicon
from speechssl.lm.model import perplexity
from speechssl.lm.texts import as_letters, read_sentences
from speechssl.saved import SavedModel
from speechssl.score.normalise import Normaliser, normalise

__all__ = ["lm_app"]

lm_app = typer.Typer(
    name="lm",
    help="Language models for decoding: build n-grams from text, measure them, make lexicons, tune their weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Texts = Annotated[list[Path], typer.Argument(help="Text files, a sentence a line (.gz too), or manifests.")]
Normalised = Annotated[str, typer.Option(help=f"What is done to the texts: {', '.join(get_args(Normaliser))}.")]
Letters = Annotated[bool, typer.Option("--letters", help="A model of letters and word boundaries instead of words.")]


@lm_app.command("build")
def build_command(
    texts: Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="ARPA file to write; .gz is packed.")],
    order: Annotated[int, typer.Option(help="Longest n-grams, 1 to 6.")] = 3,
    prune: Annotated[
        str, typer.Option(help='N-grams this rare are left out, by order: "0 0 1"; the last holds for longer ones.')
    ] = "0",
    vocabulary: Annotated[int | None, typer.Option(help="Most frequent words to keep; all if not given.")] = None,
    letters: Letters = False,
    normaliser: Normalised = "none",
) -> None:
    """Build an n-gram model, with interpolated modified Kneser-Ney smoothing."""
    values = {"order": order, "prune": _numbers(prune), "vocabulary": vocabulary}
    config = from_dict(values, NGramConfig, where="lm build")
    built = build_model(texts, out, config, letters=letters, change=_change(normaliser))
    for n in built.fallbacks:
        print(
            f"order {n}: too little text to estimate its discounts; they are 0.5, 1 and 1.5, the perplexity may suffer",
            file=sys.stderr,
        )
    unit = "letters" if letters else "words"
    print(
        f"{built.sentences} sentences, {built.tokens} {unit}, {built.words} different ones, <s>, </s>, <unk> included"
    )
    print(", ".join(f"{count} {n}-grams" for n, count in enumerate(built.ngrams, start=1)))
    print(f"{out}, settings and discounts in {out.name}.json; {built.peak_mib} MiB of memory")


@lm_app.command("perplexity")
def perplexity_command(
    model: Annotated[Path, typer.Argument(help="ARPA file.")],
    texts: Texts,
    letters: Letters = False,
    normaliser: Normalised = "none",
) -> None:
    """Say how well a model predicts texts it was not built from."""
    sentences = read_sentences(texts, change=_change(normaliser))
    found = perplexity(read_arpa(model), map(as_letters, sentences) if letters else sentences)
    share = found.unknown / found.words
    print(f"{found.sentences} sentences, {found.words} words, {found.unknown} of them unknown ({share:.2%})")
    print(f"perplexity {found.perplexity:.2f}, of known words and ends of sentences {found.perplexity_known:.2f}")


@lm_app.command("lexicon")
def lexicon_command(
    texts: Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Lexicon to write.")],
    model: Annotated[Path, typer.Option(help="Fine-tuned model whose letters spell the words.")],
    min_count: Annotated[int, typer.Option(help="Rarer words are left out.")] = 1,
    normaliser: Normalised = "none",
) -> None:
    """List the words of texts, spelled in a model's letters, for decoding with a lexicon."""
    tokens = SavedModel.read(model).description.vocabulary
    if not tokens:
        raise VocabularyError(f"{model}: the model has no vocabulary; name one that was fine-tuned with CTC")
    sentences = read_sentences(texts, change=_change(normaliser))
    lexicon, refused = Lexicon.from_sentences(sentences, Vocabulary(tuple(tokens)), min_count=min_count)
    lexicon.write(out)
    if refused:
        print(
            f"{len(refused)} words hold letters the model lacks and are left out: {', '.join(refused[:3])}",
            file=sys.stderr,
        )
    print(f"{out}: {len(lexicon.words)} words")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f'lm build: --prune: expected numbers such as "0 0 1", found {text!r}') from None


def _change(normaliser: str) -> Callable[[str], str] | None:
    known: tuple[Normaliser, ...] = get_args(Normaliser)
    for how in known:
        if how == normaliser:
            return None if how == "none" else partial(normalise, how=how)
    raise ConfigError(f"lm: --normaliser: expected one of {', '.join(known)}, found {normaliser}")
