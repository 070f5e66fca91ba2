"""Stage `verify`: speaker verification by embeddings of utterances: trials, scores, EER and minDCF.

Without a training manifest the embeddings are compared by cosine as they are. With one, its mean is subtracted, and
PLDA and s-norm are possible: centred, divided by their lengths (Garcia-Romero and Espy-Wilson 2011, "Analysis of
i-vector length normalization in speaker recognition systems"), projected by LDA, compared by PLDA. Lengths are
normalised before LDA, not after it, as few training speakers leave few dimensions, in which lengths tell.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.atomic import write_atomically
from speechssl.config import configuration, to_dict
from speechssl.data.manifest import read_table
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.pair_scores import adaptive_s_norm, cosine_terms, length_normalised, score_pairs
from speechssl.downstream.plda import Plda, check_training_speakers, lda_projection
from speechssl.downstream.trial_pairs import Pairs, all_pairs, pairs_of
from speechssl.downstream.trials import TrialList, read_trials, write_trials
from speechssl.downstream.verification import DetectionConfig, DetectionScores, as_json, evaluate_trials
from speechssl.errors import ConfigError, ManifestError
from speechssl.stages.embeddings import EmbeddingConfig, Embeddings, Source, embed, embedding_source
from speechssl.stages.head_folder import LoadedHead
from speechssl.stages.reading_data import DataConfig, read_data, tell_left_out

__all__ = ["LayerScores", "VerifyConfig", "speakers_of", "verify"]

_COLUMNS = ("text", "language", "split", "path", "folder")  # available without a table

Floats = NDArray[np.float64]


@configuration
class VerifyConfig:
    """Embeddings, trials, and how they are scored."""

    data: DataConfig  # utterances of the trials
    embedding: EmbeddingConfig
    train: tuple[Path, ...] = ()  # manifests for centring, PLDA and s-norm, of other speakers
    trials: Path | None = None  # list of trials; None: all pairs
    missing: Literal["stop", "skip"] = "stop"  # skip: leave out and count trials of utterances that are missing
    max_pairs: int = 100_000  # of all pairs, most target trials, and most others
    differ: tuple[str, ...] = ()  # columns whose values differ in a pair: text, language, split, path, folder, a column
    alike: tuple[str, ...] = ()  # columns whose values are equal in a pair, such as sex
    columns: Path | None = None  # table by id or speaker with more columns
    score: Literal["cosine", "plda"] = "cosine"
    length_norm: bool = True  # before LDA and PLDA
    lda: int | None = None  # dimensions at most; None: 150 for PLDA, none for cosine
    iterations: int = 20  # EM iterations of PLDA
    s_norm: int = 0  # highest cohort scores of adaptive s-norm; 0: none
    shared_speakers: bool = False  # whether speakers may be trained on and tested
    detection: DetectionConfig = DetectionConfig()
    seed: int = 0  # of the draw of pairs
    out: Path | None = None  # folder for scores.tsv and scores.json

    def __post_init__(self) -> None:
        if not self.train and (self.score == "plda" or self.s_norm or self.lda):
            raise ConfigError("PLDA, LDA and s-norm are fitted on other speakers; name their manifest with train")
        for name, least in (("max_pairs", 1), ("iterations", 0), ("s_norm", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, found {getattr(self, name)}")
        if self.lda is not None and self.lda < 1:
            raise ConfigError(f"lda must be 1 or more, found {self.lda}")
        if self.trials is not None and (self.differ or self.alike):
            raise ConfigError("differ and alike select among all pairs; a list of trials has been selected already")


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """Scores of one layer."""

    title: str
    layer: int  # counted from 1; 0 for what is not a layer
    found: DetectionScores


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """The training set."""

    layers: dict[int, Floats]  # (utterances, dim) embeddings of each layer
    speakers: list[str | None]  # speaker of each utterance


def verify(config: VerifyConfig) -> list[LayerScores]:
    """Embed the utterances of trials, score the trials, and evaluate the scores, for each layer.

    Raises:
        ManifestError: the trials cannot be read or name a missing utterance, or there are too few speakers, or some of
            them are in both manifests.
        AudioError: a file cannot be used, and `data.bad_audio` says to stop.
    """
    manifest = read_data(config.data)
    utterances = tuple(manifest.utterances)
    training = read_data(_train_data(config), section="train") if config.train else None
    pairs = _pairs(config, utterances)
    used = np.unique(np.concatenate([pairs.first, pairs.second]))
    rows = [utterances[index] for index in used.tolist()]
    if training is not None and not config.shared_speakers:
        _refuse_shared(manifest, rows, training)
    source = embedding_source(config.embedding, config.data)
    if isinstance(source, LoadedHead):
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, audio=source.description.audio))
        if not config.shared_speakers:
            _refuse_classes(source, rows)
    trained = None if training is None else _trained(config, source, training)
    embeddings = embed(source, config.embedding, config.data, manifest, rows)
    pairs = _renumbered(pairs, utterances, embeddings)
    known = {row.id: row.speaker for row in rows}
    named = _known_speakers(pairs, [known[key] for key in embeddings.ids])
    results = []
    for layer, vectors in embeddings.layers.items():
        scores = _scores(config, vectors, pairs, trained, layer)
        found = evaluate_trials(scores, pairs.is_target, config.detection, speakers=named)
        results.append(LayerScores(title=embeddings.titles[layer], layer=layer, found=found))
        if config.out is not None:
            folder = config.out if len(embeddings.layers) == 1 else config.out / f"layer_{layer}"
            first, second = ([embeddings.ids[i] for i in side.tolist()] for side in (pairs.first, pairs.second))
            write_trials(folder / "scores.tsv", first, second, pairs.is_target, scores)
    if config.out is not None:
        write_atomically(config.out / "scores.json", _told(config, results, pairs, embeddings))
    return results


def _train_data(config: VerifyConfig) -> DataConfig:
    return dataclasses.replace(config.data, manifests=config.train)


def _pairs(config: VerifyConfig, utterances: Sequence[Utterance]) -> Pairs:
    """Return the trials, as indices of the manifest's utterances; tell what was left out."""
    if config.trials is not None:
        pairs = pairs_of(read_trials(config.trials), utterances, missing=config.missing)
        if pairs.missing:
            tell_left_out(pairs.missing, f"not in the manifest, {pairs.left_out['missing utterance']} trials")
        targets = int(pairs.is_target.sum())
        if not 0 < targets < len(pairs.first):
            raise ManifestError(
                f"{config.trials}: expected target and non-target trials, found {targets} and "
                f"{len(pairs.first) - targets}{' that the manifest has' if pairs.missing else ''}; name both"
            )
        return pairs
    speakers = [row.speaker for row in utterances]
    table = read_table(config.columns, ("id", "speaker")) if config.columns is not None else {}
    differ, alike = (
        {name: _column(name, utterances, table, config.columns) for name in names}
        for names in (config.differ, config.alike)
    )
    pairs = all_pairs(speakers, most=config.max_pairs, seed=config.seed, differ=differ, alike=alike)
    tell_left_out([row.id for row in utterances if row.speaker is None], "no speaker")
    _tell_once("speakers of one utterance, in no target trial", speakers)
    for reason, count in pairs.left_out.items():
        print(f"left out, {reason}: {count} pairs", file=sys.stderr)
    return pairs


def _column(
    name: str, utterances: Sequence[Utterance], table: Mapping[str, Mapping[str, str]], where: Path | None
) -> list[str | None]:
    """Return the values of a column for each utterance.

    Raises:
        ManifestError: neither the manifest nor the table has it.
    """
    match name:
        case "folder":
            return [str(PurePosixPath(row.path).parent) for row in utterances]
        case "text" | "language" | "split" | "path":
            return [getattr(row, name) for row in utterances]
    found = [(table.get(row.id) or table.get(row.speaker or "") or {}).get(name) for row in utterances]
    if not any(found):
        raise ManifestError(
            f"{where or 'no table'}: has no values of {name} for these utterances; name one of {', '.join(_COLUMNS)}, "
            "or a column of a table by id or speaker given with --columns"
        )
    return found


def _refuse_shared(manifest: Manifest, rows: Sequence[Utterance], training: Manifest) -> None:
    """Refuse speakers that are trained on and tested; recordings, where speakers are not known."""
    tested = {row.speaker for row in rows if row.speaker is not None}
    shared = sorted(tested & {row.speaker for row in training.utterances if row.speaker is not None})
    what = "speakers"
    if not shared:
        what = "recordings"
        paths = {manifest.absolute_path(row) for row in rows}
        shared = sorted(paths & {training.absolute_path(row) for row in training.utterances})
    if shared:
        named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        raise ManifestError(
            f"{len(shared)} {what} are trained on and tested, {named}: scores would be better than for others; name a "
            "training manifest without them, or accept it with --shared-speakers"
        )


def _refuse_classes(head: LoadedHead, rows: Sequence[Utterance]) -> None:
    """Refuse speakers that the head was trained to tell apart."""
    if getattr(head.description.task, "column", None) != "speaker":
        return
    shared = sorted({row.speaker for row in rows if row.speaker is not None} & {*head.description.classes})
    if shared:
        named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        raise ManifestError(
            f"the head was trained on {len(shared)} of the tested speakers, {named}: scores would be better than for "
            "others; name other speakers, or accept it with --shared-speakers"
        )


def _renumbered(pairs: Pairs, utterances: Sequence[Utterance], embeddings: Embeddings) -> Pairs:
    """Return the trials as indices of the embeddings, without those of utterances that have none."""
    places = {key: place for place, key in enumerate(embeddings.ids)}
    numbers = np.array([places.get(row.id, -1) for row in utterances], np.int64)
    first, second = numbers[pairs.first], numbers[pairs.second]
    is_there = (first >= 0) & (second >= 0)
    lost = int((~is_there).sum())
    if lost:
        tell_left_out([*embeddings.left_out], f"bad audio, {lost} trials")
    return dataclasses.replace(
        pairs,
        first=first[is_there],
        second=second[is_there],
        is_target=pairs.is_target[is_there],
        left_out=pairs.left_out | ({"bad audio": lost} if lost else {}),
    )


def speakers_of(trials: TrialList, utterances: Sequence[Utterance]) -> tuple[list[str], list[str]] | None:
    """Return the speakers of both sides of scored trials; None if some are not known, or contradict the labels.

    Raises:
        ManifestError: a trial names an utterance that is missing.
    """
    pairs = pairs_of(trials, utterances, missing="stop")
    return _known_speakers(pairs, [row.speaker for row in utterances])


def _known_speakers(pairs: Pairs, speakers: Sequence[str | None]) -> tuple[list[str], list[str]] | None:
    """Return the speakers of both sides; None if some are not known, or contradict the labels, which is told."""
    first, second = ([speakers[index] for index in side.tolist()] for side in (pairs.first, pairs.second))
    known = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    if len(known) < len(pairs.first):
        print("speakers of some trials are not known: intervals are over trials", file=sys.stderr)
        return None
    wrong = sum((one == other) != target for (one, other), target in zip(known, pairs.is_target.tolist(), strict=True))
    if wrong:
        print(
            f"{wrong} of {len(known)} trials contradict the manifest's column speaker; the labels of the list count, "
            "and intervals are over trials",
            file=sys.stderr,
        )
        return None
    return [one for one, _ in known], [other for _, other in known]


def _trained(config: VerifyConfig, source: Source, training: Manifest) -> _Trained:
    """Embed the training set; tell what is left out, and how many speakers say nothing of differences within them."""
    known = {row.id: row.speaker for row in training.utterances}
    if config.score == "plda" or config.lda:
        check_training_speakers([speaker for speaker in known.values() if speaker is not None])
    found = embed(source, config.embedding, _train_data(config), training, tuple(training.utterances))
    tell_left_out([*found.left_out], "bad audio of the training set")
    speakers = [known[key] for key in found.ids]
    if config.score == "plda" or config.lda:
        tell_left_out([key for key in found.ids if known[key] is None], "no speaker in the training set")
        _tell_once("training speakers of one utterance", speakers)
    return _Trained(layers=found.layers, speakers=speakers)


def _tell_once(title: str, speakers: Sequence[str | None]) -> None:
    """Count the speakers with a single utterance, and name the first."""
    counts = Counter(speaker for speaker in speakers if speaker is not None)
    once = [speaker for speaker, count in counts.items() if count == 1]
    if once:
        print(f"{title}: {len(once)}: {', '.join(once[:3])}{', ...' if len(once) > 3 else ''}", file=sys.stderr)


def _scores(config: VerifyConfig, vectors: Floats, pairs: Pairs, trained: _Trained | None, layer: int) -> Floats:
    """Return the (trials,) scores of a layer from its (utterances, dim) embeddings."""
    if trained is None:
        return score_pairs(cosine_terms(vectors), pairs.first, pairs.second)
    mean = trained.layers[layer].mean(0)
    vectors, learnt = vectors - mean, trained.layers[layer] - mean
    terms_of = cosine_terms
    if config.score == "plda" or config.lda:
        has_speaker = np.array([speaker is not None for speaker in trained.speakers])
        speakers = [speaker for speaker in trained.speakers if speaker is not None]
        if config.length_norm:
            vectors, learnt = length_normalised(vectors), length_normalised(learnt)
        projection = lda_projection(learnt[has_speaker], speakers, config.lda or 150)
        vectors, learnt = vectors @ projection, learnt @ projection
        if config.score == "plda":
            terms_of = Plda.fit(learnt[has_speaker], speakers, iterations=config.iterations).terms
    terms = terms_of(vectors)
    scores = score_pairs(terms, pairs.first, pairs.second)
    if config.s_norm:
        scores = adaptive_s_norm(scores, pairs.first, pairs.second, terms, terms_of(learnt), top=config.s_norm)
    return scores


def _told(config: VerifyConfig, results: Sequence[LayerScores], pairs: Pairs, embeddings: Embeddings) -> str:
    told = {
        "results": [{"features": each.title, "layer": each.layer} | as_json(each.found) for each in results],
        "left_out": {"pairs": pairs.left_out, "missing": list(pairs.missing), "bad_audio": embeddings.left_out},
        "config": to_dict(config),
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"
