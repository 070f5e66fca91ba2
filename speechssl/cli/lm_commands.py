"""Command line: `speechssl lm ...`: build, measure and tune language models for decoding, and make lexicons.

Each command reads its arguments, calls one function of the package and prints the result.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer

from speechssl.asr.lm.arpa import read_arpa
from speechssl.asr.lm.estimate import build_model
from speechssl.asr.lm.kneser_ney import NGramConfig
from speechssl.asr.lm.lexicon import Lexicon
from speechssl.asr.lm.ngram_model import perplexity
from speechssl.asr.lm.sentences import as_letters, read_sentences
from speechssl.asr.scoring.normalise import Normaliser, normalise
from speechssl.cli.arguments import Channels, MinSampleRate, Root
from speechssl.config import from_dict
from speechssl.corpus.named import read_named
from speechssl.errors import ConfigError

if TYPE_CHECKING:  # these modules need extras, or torch, which the other commands do not
    from speechssl.stages.tune import Point
    from speechssl.text.vocabulary import Vocabulary

__all__ = ["build_command", "lexicon_command", "perplexity_command", "tune_command"]

Number = TypeVar("Number", int, float)

Texts = Annotated[list[Path], typer.Argument(help="Text files with one sentence per line (.gz too), or manifests.")]
Normalised = Annotated[str, typer.Option(help=f"Normalisation of the texts: {', '.join(get_args(Normaliser))}.")]
Letters = Annotated[
    bool, typer.Option("--letters", help="Build a model of letters and word boundaries instead of words.")
]


def build_command(
    texts: Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="ARPA file to write; gzipped if it ends in .gz.")],
    order: Annotated[int, typer.Option(help="Order of the model, 1 to 6.")] = 3,
    prune: Annotated[
        str, typer.Option(help='Pruning counts by order, such as "0 0 1"; the last one holds for longer n-grams.')
    ] = "0",
    vocabulary: Annotated[int | None, typer.Option(help="Number of most frequent words to keep. Default: all.")] = None,
    letters: Letters = False,
    normaliser: Normalised = "none",
    model: Annotated[
        Path | None, typer.Option(help="Fine-tuned model: the texts are normalised like its training texts.")
    ] = None,
) -> None:
    """Build an n-gram model, with interpolated modified Kneser-Ney smoothing."""
    values = {"order": order, "prune": _numbers(prune, int), "vocabulary": vocabulary}
    config = from_dict(values, NGramConfig, where="lm build")
    policy = None if model is None else _vocabulary(model).text.apply
    built = build_model(texts, out, config, letters=letters, change=_change(normaliser) or policy)
    for n in built.fallbacks:
        print(
            f"order {n}: too little text to estimate its discounts; they are set to 0.5, 1, 1.5; perplexity may suffer",
            file=sys.stderr,
        )
    unit = "letters" if letters else "words"
    print(
        f"{built.sentences} sentences, {built.tokens} {unit}, {built.words} different ones, <s>, </s>, <unk> included"
    )
    print(", ".join(f"{count} {n}-grams" for n, count in enumerate(built.ngrams, start=1)))
    print(f"{out}, settings and discounts in {out.name}.json; {built.peak_mib} MiB of memory")


def perplexity_command(
    model: Annotated[Path, typer.Argument(help="ARPA file.")],
    texts: Texts,
    letters: Letters = False,
    normaliser: Normalised = "none",
) -> None:
    """Measure the perplexity of a model on texts it was not built from."""
    sentences = read_sentences(texts, change=_change(normaliser))
    found = perplexity(read_arpa(model), map(as_letters, sentences) if letters else sentences)
    share = found.unknown / found.words
    print(f"{found.sentences} sentences, {found.words} words, {found.unknown} of them unknown ({share:.2%})")
    print(f"perplexity {found.perplexity:.2f}, of known words and ends of sentences {found.perplexity_known:.2f}")


def lexicon_command(
    texts: Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Lexicon to write.")],
    model: Annotated[Path, typer.Option(help="Fine-tuned model whose tokens spell the words.")],
    min_count: Annotated[int, typer.Option(help="Leave out rarer words.")] = 1,
    normaliser: Normalised = "none",
) -> None:
    """List the words of texts, spelled in a model's tokens, for decoding with a lexicon.

    Without --normaliser the texts are normalised like those that the model was fine-tuned on.
    """
    vocabulary = _vocabulary(model)
    sentences = read_sentences(texts, change=_change(normaliser) or vocabulary.text.apply)
    lexicon, refused = Lexicon.from_sentences(sentences, vocabulary, min_count=min_count)
    lexicon.write(out)
    if refused:
        print(
            f"{len(refused)} words hold letters the model lacks and are left out: {', '.join(refused[:3])}",
            file=sys.stderr,
        )
    print(f"{out}: {len(lexicon.words)} words")


def tune_command(
    model: Annotated[Path, typer.Argument(help="Fine-tuned model.")],
    dev: Annotated[Path, typer.Argument(help="Manifest with texts: the development set.")],
    lm: Annotated[Path, typer.Option(help="ARPA file of words; without a lexicon also one of letters.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the table, the plot and the cached log-posteriors.")
    ],
    test: Annotated[Path | None, typer.Option(help="Test set, decoded once with the chosen weights.")] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="Lexicon from lm lexicon. Default: any spelling is possible.")
    ] = None,
    flashlight: Annotated[bool, typer.Option("--flashlight", help="Decode with flashlight; needs a lexicon.")] = False,
    lm_weights: Annotated[str, typer.Option(help="Language model weights to try.")] = "0 0.5 1 2 3",
    word_scores: Annotated[str, typer.Option(help="Word scores to try.")] = "-1 0 1 2",
    widen: Annotated[int, typer.Option(help="How often the grid may grow when its best pair lies at an edge.")] = 3,
    rounds: Annotated[int, typer.Option(help="Number of refinements around the best pair.")] = 1,
    beam: Annotated[int, typer.Option(help="Beam size.")] = 100,
    metric: Annotated[str, typer.Option(help="Metric to minimise: wer or cer.")] = "wer",
    root: Root = None,
    min_sample_rate: MinSampleRate = None,
    channels: Channels = None,
) -> None:
    """Choose the weights of a language model on a development set."""
    from speechssl.stages.posteriors import PosteriorConfig
    from speechssl.stages.tune import tune
    from speechssl.stages.tuned import TuneConfig

    if flashlight and lexicon is None:
        raise ConfigError("lm tune: --flashlight needs a lexicon; make one with `speechssl lm lexicon`")
    kind = "flashlight" if flashlight else "lexicon" if lexicon is not None else "beam"
    decoder = {"kind": kind, "lm": lm, "search": {"beam": beam}}
    decoder |= {} if lexicon is None else {"lexicon": lexicon}
    numbers = {"lm_weights": _numbers(lm_weights, float), "word_scores": _numbers(word_scores, float)}
    values = {"decoder": decoder, **numbers, "widen": widen, "rounds": rounds, "metric": metric}
    config = from_dict(values, TuneConfig, where="lm tune")
    held_out = None if test is None else read_named(test, root=root)
    hearing = from_dict({"min_sample_rate": min_sample_rate, "channels": channels}, PosteriorConfig, where="lm tune")
    found = tune(model, read_named(dev, root=root), config, out, test=held_out, progress=_tell, hearing=hearing)
    print(f"dev   greedy          WER {found.greedy['dev'][0]:.2%}  CER {found.greedy['dev'][1]:.2%}")
    print(f"dev   {_named(found.best)}")
    if warning := found.worsened(config.metric):
        print(f"warning: {warning}", file=sys.stderr)
    if found.test is not None:
        print(f"test  greedy          WER {found.greedy['test'][0]:.2%}  CER {found.greedy['test'][1]:.2%}")
        print(f"test  with these      WER {found.test[0]:.2%}  CER {found.test[1]:.2%}")
    print(f"{out}: tune.json, surface.tsv, surface.png")


def _vocabulary(model: Path) -> "Vocabulary":
    from speechssl.hub.model_formats import read_saved

    return read_saved(model).vocabulary()


def _tell(point: "Point") -> None:
    print(_named(point), file=sys.stderr)


def _named(point: "Point") -> str:
    weights = f"lm_weight={point.lm_weight:g} word_score={point.word_score:g}"
    return f"{weights}  WER {point.wer:.2%}  CER {point.cer:.2%}"


def _numbers(text: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f'lm: expected numbers such as "0 0 1", found {text!r}') from None


def _change(normaliser: str) -> Callable[[str], str] | None:
    known: tuple[Normaliser, ...] = get_args(Normaliser)
    for how in known:
        if how == normaliser:
            return None if how == "none" else partial(normalise, how=how)
    raise ConfigError(f"lm: --normaliser: expected one of {', '.join(known)}, found {normaliser}")
