"""What `shift` scores: recognisers by their texts, heads of `probe` by the class of each utterance."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl import fingerprint
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate
from speechssl.data.utterances import Manifest
from speechssl.downstream.group_scores import Ratio
from speechssl.errors import ConfigError, ManifestError
from speechssl.hub.model_formats import read_saved
from speechssl.model.precision import choose_precision, pack
from speechssl.parallel import pick_device
from speechssl.stages import head_folder
from speechssl.stages.posteriors import PosteriorConfig
from speechssl.stages.reading_data import DataConfig, tell_left_out
from speechssl.stages.score import cell_of, error_ratios, references_of
from speechssl.stages.transcribe import transcribe_by
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.utterance_classes import UtteranceClassesConfig

__all__ = ["Answer", "System", "shift_references", "system_of"]

Answer = Callable[[Manifest], tuple[Mapping[str, str], Sequence[str]]]  # answers by id, and why others have none


@dataclass(frozen=True, kw_only=True)
class System:
    """A model that answers for utterances, and how its answers are scored."""

    fingerprint: str
    column: str | None  # column of the manifest that holds the right answers; None: texts
    classes: Sequence[str]  # possible answers; empty: any
    higher_is_better: Mapping[str, bool]  # by score; the first is the one that reports are about
    load: Callable[[], Answer]
    ratios: Callable[[Sequence[Reference], Mapping[str, str]], Mapping[str, Ratio]]  # scores of references' indices


def system_of(path: Path, posteriors: PosteriorConfig, score: ScoreConfig, *, skip_bad: bool) -> System:
    """Describe a model, which is loaded when its first answer is needed.

    Args:
        path: folder of a fine-tuned model, or of a head.
        posteriors: batches and precision of a recogniser.
        score: how texts are compared.
        skip_bad: leave out audio that cannot be used instead of raising.

    Raises:
        CheckpointError: the folder holds neither a recogniser nor a head.
        ConfigError: the head is not for classes of utterances.
    """
    if (path / head_folder.DESCRIPTION).exists():
        return _head(path, skip_bad=skip_bad)
    saved = read_saved(path)
    hashed = saved.fingerprint()
    del saved

    def load() -> Answer:
        saved = read_saved(path)
        model, vocabulary = saved.recogniser(shares=True)
        device, audio = pick_device(), saved.description.audio
        del saved  # whose tensors packing is to release one by one
        model = pack(model.to(device), choose_precision(posteriors.precision, device), in_place=True)

        def answer(manifest: Manifest) -> tuple[Mapping[str, str], Sequence[str]]:
            found, skipped = transcribe_by(
                model, vocabulary, manifest, audio, posteriors, skip_bad=skip_bad, settings="--"
            )
            return {each.id: each.text for each in found}, skipped

        return answer

    def ratios(references: Sequence[Reference], answers: Mapping[str, str]) -> Mapping[str, Ratio]:
        return error_ratios(evaluate(references, answers, dataclasses.replace(score, samples=1)))

    return System(
        fingerprint=hashed,
        column=None,
        classes=(),
        higher_is_better={"CER": False, "WER": False},
        load=load,
        ratios=ratios,
    )


def _head(path: Path, *, skip_bad: bool) -> System:
    description, network = head_folder.read_head(path)
    task = description.task
    if not isinstance(task, UtteranceClassesConfig):
        raise ConfigError(
            f"{path}: is a head for {head_of(task).title}; shift scores classes of utterances: for others train and "
            "score by `speechssl probe` with test.shift=noise:10"
        )

    def load() -> Answer:
        loaded = head_folder.load_head(path)

        def answer(manifest: Manifest) -> tuple[Mapping[str, str], Sequence[str]]:
            data = DataConfig(manifests=(), bad_audio="skip" if skip_bad else "stop")
            found = {
                row.id: description.classes[int(probabilities.argmax())]
                for row, probabilities in loaded.predict_manifest(data, manifest)
            }
            missing = [row.id for row in manifest.utterances if row.id not in found]
            return found, [f"{key}: audio that cannot be used" for key in missing]

        return answer

    def ratios(references: Sequence[Reference], answers: Mapping[str, str]) -> Mapping[str, Ratio]:
        hits = np.array([answers[row.id] == row.text for row in references], float)
        return {"accuracy": Ratio(hits, np.ones(len(hits)))}

    return System(
        fingerprint=f"{description.fingerprint}-{fingerprint.of_tensors(network.state_dict())}",
        column=task.column,
        classes=description.classes,
        higher_is_better={"accuracy": True},
        load=load,
        ratios=ratios,
    )


def shift_references(
    systems: Mapping[str, System],
    manifest: Manifest,
    groupings: Sequence[str],
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Reference]:
    """Return the right answers for a manifest with the groups of each utterance; those without one are listed.

    Args:
        systems: what is scored, by name.
        manifest: the utterances.
        groupings: as in `references_of`.
        columns: result of `read_columns`; it may hold the answers, too.

    Raises:
        ConfigError: the systems answer different questions.
        ManifestError: no utterance has an answer, or a grouping is not known.
    """
    asked = {system.column for system in systems.values()}
    if len(asked) > 1:
        said = (f"{name} {'writes texts' if each.column is None else each.column}" for name, each in systems.items())
        raise ConfigError(f"shift: the models answer different questions ({', '.join(said)}); score them one by one")
    (column,) = asked
    if column is None:
        return references_of(manifest, groupings, columns)
    known = set.intersection(*(set(system.classes) for system in systems.values()))
    answers = {row.id: cell_of(row, column, columns or {}) for row in manifest.utterances}
    rows = [row for row in manifest.utterances if answers[row.id] in known]
    empty = [key for key, answer in answers.items() if not answer]
    tell_left_out(empty, f"no {column}")
    tell_left_out([key for key, answer in answers.items() if answer and answer not in known], "a class no head knows")
    if not rows:
        raise ManifestError(
            f"shift: no utterance has a {column} that the heads know ({', '.join(sorted(known)[:3])}, ...); fill the "
            "column, or name a table with --columns"
        )
    answered = tuple(dataclasses.replace(row, text=answers[row.id]) for row in rows)
    return references_of(dataclasses.replace(manifest, utterances=answered), groupings, columns)
