"""Pseudo-labels: a recogniser transcribes pool and dev; what is kept of the pool, and its weights, is decided on dev.

Transcripts are scored by the measures of `asr.confidence`; `asr.calibration` chooses one on dev and maps it to the
expected share of right letters. Transcripts that look hallucinated are left out whatever their confidence.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from speechssl.asr.confidence import longest_loop
from speechssl.asr.decoding.decoders import Beam, DecoderConfig, Greedy, WithLexicon
from speechssl.asr.scoring.wer import score_texts
from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import Discriminator, configuration
from speechssl.data.manifest import root_from, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.bootstrap import interval
from speechssl.downstream.group_scores import Ratio
from speechssl.errors import ManifestError
from speechssl.hub.model_formats import read_saved
from speechssl.model.encoder import EncoderConfig
from speechssl.stages.judged import Judged, judge
from speechssl.stages.preflight import frame_budget
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.stages.scored import Scored, transcribe_scored
from speechssl.stages.selftrain_recipe import KeepConfig
from speechssl.stages.tune import tune
from speechssl.stages.tuned import TuneConfig, read_tuned
from speechssl.text.diversity import diversity
from speechssl.text.vocabulary import Vocabulary

__all__ = ["LabelConfig", "label", "select"]


@configuration
class LabelConfig:
    """What the pseudo-labels of a round depend on."""

    out: Path
    checkpoint: Path  # the recogniser
    labelled: DataConfig
    synthetic: DataConfig | None
    pool: DataConfig
    dev: DataConfig
    decode: Annotated[Greedy | Beam | WithLexicon, Discriminator("kind")]
    tune: TuneConfig | None
    keep: KeepConfig
    round: int  # counted from 1
    longest_s: float  # longest utterance that a batch of the training holds at its lowest speed
    fastest: float  # largest speed factor of the training
    seed: int


def label(config: LabelConfig) -> Path:
    """Transcribe the pool, and write pseudo-labels, weights, scores, calibration; return `labels.json`.

    Raises:
        ManifestError: dev has no texts, or no utterance keeps its pseudo-label.
    """
    saved = read_saved(config.checkpoint)
    vocabulary = saved.vocabulary()
    sets = {"dev": read_data(config.dev, section="dev"), "pool": read_data(config.pool, section="pool")}
    labels = read_data(config.labelled, section="labelled")
    decoder: DecoderConfig = config.decode
    if config.tune is not None:
        tune(config.checkpoint, sets["dev"], config.tune, config.out / "tune")
        decoder = read_tuned(config.out / "tune")
    scored = {
        name: transcribe_scored(saved, manifest, decoder, config.keep, seed=config.seed, skips=_skips(config, name))
        for name, manifest in sets.items()
    }
    judged = judge([each for each in scored["dev"] if (each.row.text or "").strip()], vocabulary, config.keep)
    known = [(row, text) for row in labels.utterances if (text := vocabulary.reference(row.text or ""))]
    limits = _limits_of(known, config.keep)
    encoder = saved.description.encoder
    refused = {
        each.row.id: reason
        for each in scored["pool"]
        if (reason := _refused(each, limits, config, encoder=encoder, vocabulary=vocabulary))
    }
    fit = [each for each in scored["pool"] if each.row.id not in refused]
    confidence = [each.measures[judged.measure] for each in fit]
    expected = judged.map(confidence).tolist()
    threshold, is_kept = select(confidence, expected, config.keep, config.round)
    unsure = "less sure than kept ones"
    if config.keep.max_cer is not None:
        unsure = f"expected CER above keep.max_cer={config.keep.max_cer:g}"
    refused |= {each.row.id: unsure for each, kept in zip(fit, is_kept, strict=True) if not kept}
    kept = [each for each, chosen in zip(fit, is_kept, strict=True) if chosen]
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(refused.values()).most_common())
        surest = f"; the surest one's expected CER is {1 - max(expected):.3f}" if expected else ""
        raise ManifestError(
            f"{config.out.name}: no utterance of the pool keeps its pseudo-label: {reasons}{surest}; take a better "
            "recogniser, or loosen keep"
        )
    accuracy = dict(zip((each.row.id for each in fit), expected, strict=True))
    _write_labels(config, sets["pool"], labels, kept, accuracy)
    _write_scores(config.out / "scores.tsv", scored["pool"], accuracy, refused)
    found = judged.as_json() | {
        "threshold": threshold,
        "dev_at_threshold": _at_threshold(judged, threshold, seed=config.seed),
        "dev": _rates(judged.scored, vocabulary),
        "pool": _pool_summary(sets["pool"], scored["pool"], kept, refused, accuracy, vocabulary),
        "diversity": _diversities(kept, [text for _, text in known], seed=config.seed),
    }
    write_atomically(config.out / "calibration.png", judged.picture(f"round {config.round}, by {judged.measure}"))
    write_atomically(config.out / "labels.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return config.out / "labels.json"


def select(
    confidence: Sequence[float], expected: Sequence[float], keep: KeepConfig, round_: int
) -> tuple[float, list[bool]]:
    """Choose the utterances that keep their pseudo-labels.

    Args:
        confidence: (utterances,) measure of each.
        expected: (utterances,) expected share of right letters, by the map fitted on dev.
        keep: the highest expected CER, or the surest share by round; of equal confidence all or none are kept.
        round_: number of the round, counted from 1.

    Returns:
        The lowest confidence kept, and whether each utterance is kept; infinity if there is none.
    """
    values = np.asarray(confidence, np.float64)
    if keep.max_cer is not None:
        is_kept = np.asarray(expected, np.float64) >= 1 - keep.max_cer
    elif len(values):
        number = max(1, round(keep.share_of(round_) * len(values)))
        is_kept = values >= np.sort(values)[-number]
    else:
        is_kept = np.zeros(0, bool)
    return (float(values[is_kept].min()) if is_kept.any() else float("inf")), is_kept.tolist()


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """What labelled texts show."""

    slowest: float  # letters a second
    fastest: float
    loop: int  # letters in the longest loop that is allowed


def _limits_of(known: Sequence[tuple[Utterance, str]], keep: KeepConfig) -> _Limits:
    rates = [len(text) / row.duration_s for row, text in known]
    low, high = np.quantile(rates, [0.01, 0.99]).tolist()
    return _Limits(
        slowest=low / keep.rate_margin,
        fastest=high * keep.rate_margin,
        loop=max(keep.loop_letters, *(longest_loop(text) for _, text in known)),
    )


def _refused(
    each: Scored, limits: _Limits, config: LabelConfig, *, encoder: EncoderConfig, vocabulary: Vocabulary
) -> str | None:
    """Return why a transcript is no pseudo-label whatever its confidence; None if it may be one."""
    if not each.text.strip():
        return "nothing transcribed"
    if each.row.num_samples_16k > config.longest_s * SAMPLE_RATE:
        return f"longer than the {config.longest_s:g} s that a batch holds"
    if longest_loop(each.text) > limits.loop:
        return "a loop"
    if each.letters_per_second > limits.fastest:
        return f"over {limits.fastest:.1f} letters a second"
    if each.letters_per_second < limits.slowest:
        return f"under {limits.slowest:.1f} letters a second"
    tokens = vocabulary.encode(each.text, where=each.row.id)
    required, made = frame_budget(each.row, tokens, config.fastest, hop=encoder.hop, window=encoder.window)
    return "too few frames at the highest speed" if made < required else None


def _skips(config: LabelConfig, name: str) -> list[str] | None:
    data = config.pool if name == "pool" else config.dev
    return [] if data.bad_audio == "skip" else None


def _write_labels(
    config: LabelConfig, pool: Manifest, labels: Manifest, kept: Sequence[Scored], accuracy: Mapping[str, float]
) -> None:
    """Write the manifest of pseudo-labels, in the place of any texts of the pool, and the weights of all utterances."""
    rows = [dataclasses.replace(each.row, text=each.text) for each in kept]
    root = root_from(config.out, dataclasses.replace(pool, utterances=tuple(rows)))
    write_manifest(config.out / "pseudo.tsv", rows, root=root)
    true = [row.id for row in labels.utterances]
    true += [row.id for row in read_data(config.synthetic).utterances] if config.synthetic is not None else []
    weights = dict.fromkeys(true, 1.0)
    weights |= {each.row.id: accuracy[each.row.id] if config.keep.weighted else 1.0 for each in kept}
    lines = ["id\tweight", *(f"{key}\t{weight:.6f}" for key, weight in weights.items())]
    write_atomically(config.out / "weights.tsv", "\n".join(lines) + "\n")


def _write_scores(
    path: Path, scored: Sequence[Scored], accuracy: Mapping[str, float], refused: Mapping[str, str]
) -> None:
    """Write the table of all transcripts of the pool: kept or why not, expected accuracy, measures, text."""
    names = [*scored[0].measures] if scored else []
    lines = ["\t".join(["id", "kept", "reason", "expected_accuracy", *names, "text"])]
    for each in scored:
        reason = refused.get(each.row.id, "")
        share = accuracy.get(each.row.id)
        cells = [each.row.id, str(int(not reason)), reason, "" if share is None else f"{share:.4f}"]
        lines.append("\t".join([*cells, *(f"{each.measures[name]:.4f}" for name in names), each.text]))
    write_atomically(path, "\n".join(lines) + "\n")


def _at_threshold(judged: Judged, threshold: float, *, seed: int) -> dict[str, Any]:
    """Return what the same threshold keeps of dev, with the 95 % interval of its CER over utterances."""
    chosen = [index for index, value in enumerate(judged.values) if value >= threshold]
    errors, letters = np.array(judged.errors)[chosen], np.array(judged.letters)[chosen]
    kept = {"utterances": len(chosen), "share": len(chosen) / len(judged.errors)}
    if not chosen:
        return kept | {"cer": None, "interval": None}

    cer = Ratio(errors, letters)
    found = interval(cer, [judged.scored[index].row.id for index in chosen], seed=seed)
    return kept | {"cer": cer(np.arange(len(chosen))), "interval": [found.low, found.high]}


def _rates(scored: Sequence[Scored], vocabulary: Vocabulary) -> dict[str, float]:
    """Return CER and WER with the decoder, and without a search."""
    references = {each.row.id: vocabulary.reference(each.row.text or "") for each in scored}
    found = score_texts(references, {each.row.id: each.text for each in scored})
    greedy = score_texts(references, {each.row.id: each.greedy for each in scored})
    return {"cer": found.cer, "wer": found.wer, "greedy_cer": greedy.cer, "greedy_wer": greedy.wer}


def _pool_summary(
    pool: Manifest,
    scored: Sequence[Scored],
    kept: Sequence[Scored],
    refused: Mapping[str, str],
    accuracy: Mapping[str, float],
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Count hours and reasons, and compare expected and, where the pool has texts, true error rates."""
    unread = len(pool.utterances) - len(scored)
    counts = dict(Counter(refused.values()).most_common()) | ({"audio cannot be used": unread} if unread else {})
    letters = [len(each.text) for each in kept]
    shares = [accuracy[each.row.id] for each in kept]
    true = {each.row.id: vocabulary.text.apply(each.row.text or "") for each in kept}
    true = {key: text for key, text in true.items() if text}
    texts = {each.row.id: each.text for each in kept if each.row.id in true}
    scores = score_texts(true, texts) if true else None
    return {
        "utterances": len(pool.utterances),
        "hours": pool.duration_s / 3600,
        "kept": len(kept),
        "kept_hours": sum(each.row.duration_s for each in kept) / 3600,
        "left_out": counts,
        "expected_cer": 1 - float(np.average(shares, weights=letters)),
        "true_cer": None if scores is None else scores.cer,  # for the report only: the texts are not trained on
        "true_cer_of": len(true),
    }


def _diversities(kept: Sequence[Scored], known: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Measure pseudo-labels and labelled texts at one number of words."""
    texts = {"labelled": known, "pseudo": [each.text for each in kept]}
    words = min(sum(len(text.split()) for text in each) for each in texts.values())
    return {name: dataclasses.asdict(diversity(each, at_most=words, seed=seed)) for name, each in texts.items()}
