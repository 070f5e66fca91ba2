"""Command line: speaker verification, and error rates of anyone's scores."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from speechssl.cli.arguments import Bfloat16, Precision, Root, choose_precision

__all__ = ["eer_command", "verify_command"]

Samples = Annotated[int, typer.Option(help="Bootstrap samples for each interval; 0: no intervals.")]
PTarget = Annotated[
    list[float] | None,
    typer.Option("--p-target", help="Prior of a target trial, for minDCF; may be repeated. Default: 0.01 and 0.05."),
]


def verify_command(
    model: Annotated[
        str, typer.Argument(help="Folder or file of a model, hf://org/name, a folder of features, mfcc or log_mel.")
    ],
    manifests: Annotated[list[Path], typer.Argument(help="Manifests of the utterances of the trials.")],
    trials: Annotated[
        Path | None, typer.Option(help="List of trials: VoxCeleb's, Kaldi's, or a table. Default: all pairs.")
    ] = None,
    missing: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do about trials of utterances that are missing.")
    ] = "stop",
    layers: Annotated[
        str, typer.Option("--layers", "--layer", help="Numbers such as 6 or 3,6,9; all; weighted. Default: the last.")
    ] = "",
    weights: Annotated[str, typer.Option(help="Weights separated by commas, one per layer, for weighted.")] = "",
    random_weights: Annotated[
        int | None, typer.Option(help="Seed: the same architecture with random weights instead of the model.")
    ] = None,
    cmn: Annotated[bool, typer.Option("--cmn", help="Subtract the mean from MFCC or log-mel; with mean_std.")] = False,
    pool: Annotated[
        Literal["mean", "mean_std"], typer.Option(help="Pooling over frames: mean, or mean and deviation.")
    ] = "mean",
    train: Annotated[
        list[Path] | None, typer.Option(help="Manifest of other speakers, for centring, PLDA and s-norm.")
    ] = None,
    score: Annotated[Literal["cosine", "plda"], typer.Option(help="Score of two embeddings.")] = "cosine",
    lda: Annotated[int | None, typer.Option(help="Dimensions after LDA, at most. Default: 150 for PLDA.")] = None,
    length_norm: Annotated[bool, typer.Option(help="Divide embeddings by their lengths before LDA and PLDA.")] = True,
    s_norm: Annotated[int, typer.Option(help="Highest cohort scores for adaptive s-norm, such as 300; 0: none.")] = 0,
    shared_speakers: Annotated[
        bool, typer.Option("--shared-speakers", help="Accept speakers that are trained on and tested.")
    ] = False,
    differ: Annotated[
        list[str] | None,
        typer.Option(help="All pairs: column whose values differ, such as text, folder or session; may be repeated."),
    ] = None,
    alike: Annotated[
        list[str] | None, typer.Option(help="All pairs: column whose values are equal, such as sex; may be repeated.")
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="Table by id or speaker, with more columns.")] = None,
    max_pairs: Annotated[int, typer.Option(help="All pairs: most target trials, and most others.")] = 100_000,
    p_target: PTarget = None,
    samples: Samples = 1000,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write: scores.tsv and scores.json.")
    ] = None,
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unusable audio instead of stopping.")] = False,
    window_s: Annotated[float, typer.Option(help="Seconds; longer audio is encoded in windows of this length.")] = 60.0,
    batch_s: Annotated[
        float | None, typer.Option(help="Seconds of audio in a batch; 0: one utterance, the default on CPU.")
    ] = None,
    precision: Precision = "float32",
    bfloat16: Bfloat16 = False,
) -> None:
    """Verify speakers by embeddings, with cosine or PLDA: EER and minDCF of trials or all pairs."""
    from speechssl.cli.features_commands import parse_layers, parse_numbers
    from speechssl.downstream.verification import DetectionConfig, score_lines, score_row, trial_lines
    from speechssl.stages.embeddings import EmbeddingConfig
    from speechssl.stages.feature_source import ExtractConfig
    from speechssl.stages.reading_data import DataConfig
    from speechssl.stages.verify import VerifyConfig, verify

    extract = ExtractConfig(
        window_s=window_s,
        overlap_s=min(4.0, window_s / 4),
        batch_s=batch_s,
        precision=choose_precision(precision, bfloat16),
    )
    results = verify(
        VerifyConfig(
            data=DataConfig(manifests=tuple(manifests), root=root, bad_audio="skip" if skip_bad else "stop"),
            embedding=EmbeddingConfig(
                model=model,
                layers=parse_layers(layers),
                weights=tuple(parse_numbers(weights, "--weights")),
                random_weights=random_weights,
                cmn=cmn,
                pool=pool,
                extract=extract,
            ),
            train=tuple(train or ()),
            trials=trials,
            missing=missing,
            max_pairs=max_pairs,
            differ=tuple(differ or ()),
            alike=tuple(alike or ()),
            columns=columns,
            score=score,
            length_norm=length_norm,
            lda=lda,
            s_norm=s_norm,
            shared_speakers=shared_speakers,
            detection=DetectionConfig(p_targets=tuple(p_target or (0.01, 0.05)), samples=samples, seed=seed),
            seed=seed,
            out=out,
        )
    )
    if len(results) == 1:
        print(results[0].title, *score_lines(results[0].found), sep="\n")
    else:
        width = max(len(result.title) for result in results)
        print(*(f"{result.title:{width}}  {score_row(result.found)}" for result in results), sep="\n")
        print(*trial_lines(results[0].found), sep="\n")
        print("a layer that is chosen by these scores must be scored on other trials")
    if out is not None:
        print(out / "scores.json")


def eer_command(
    scores: Annotated[
        Path, typer.Argument(help="Scored trials: of verify, SpeechBrain, WeSpeaker, Kaldi, or a table.")
    ],
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of the utterances, for intervals over speakers.")
    ] = None,
    p_target: PTarget = None,
    samples: Samples = 1000,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write as well.")] = None,
    root: Root = None,
) -> None:
    """Compute EER and minDCF of scored trials, of any toolkit, with intervals."""
    from speechssl.atomic import write_atomically
    from speechssl.corpus.named import read_named
    from speechssl.downstream.trials import read_trials
    from speechssl.downstream.verification import DetectionConfig, as_json, evaluate_trials, score_lines
    from speechssl.errors import ManifestError
    from speechssl.stages.verify import speakers_of

    listed = read_trials(scores)
    if listed.scores is None:
        raise ManifestError(f"{scores}: is a list of trials without scores; score it with `speechssl verify --trials`")
    speakers = None if manifest is None else speakers_of(listed, read_named(manifest, root=root).utterances)
    config = DetectionConfig(p_targets=tuple(p_target or (0.01, 0.05)), samples=samples, seed=seed)
    found = evaluate_trials(listed.scores, listed.is_target, config, speakers=speakers)
    print(*score_lines(found), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n")
        print(out)
