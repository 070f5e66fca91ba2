"""The tasks of SUPERB (Yang et al. 2021, arXiv:2105.01051) as probes: data, labels, heads, and what may be compared.

A corpus is listed once, into `data/CORPUS.tsv`; every task of it has a manifest of the same utterances in the same
order with a split of its own, so that features are extracted once.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.atomic import write_atomically
from speechssl.corpus.layouts.known_layouts import Layout, list_layout, write_labels
from speechssl.corpus.layouts.speech_commands import TEN_WORDS
from speechssl.corpus.sample import sample
from speechssl.corpus.split import split_by_shares
from speechssl.data.manifest import read_manifest, read_table, root_from, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import CheckpointError, CorpusError
from speechssl.stages.probe_config import ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.superb_config import TASKS, SuperbConfig, TaskName
from speechssl.tasks.frame_classes import FrameClassesConfig
from speechssl.tasks.speaker_embedding import SpeakerEmbeddingConfig
from speechssl.tasks.utterance_classes import UtteranceClassesConfig

__all__ = ["CORPUS_OF", "Corpus", "PlannedTask", "listed_corpus", "planned_tasks", "tasks_left_out"]

CorpusName = Literal[
    "voxceleb1", "speech_commands", "fluent_speech_commands", "iemocap", "librispeech_phones", "ml_superb"
]
CORPUS_OF: dict[TaskName, CorpusName] = {
    "sid": "voxceleb1",
    "asv": "voxceleb1",
    "ks": "speech_commands",
    "ic": "fluent_speech_commands",
    "er": "iemocap",
    "pr": "librispeech_phones",
    "lid": "ml_superb",
}
_LAYOUTS: dict[CorpusName, Layout] = {
    "voxceleb1": "voxceleb1",
    "speech_commands": "speech-commands",
    "fluent_speech_commands": "fluent-speech-commands",
    "iemocap": "iemocap",
    "librispeech_phones": "librispeech-phones",
    "ml_superb": "ml-superb",
}
_ALWAYS_OUT = {
    "asr": "heads for CTC on stored frames of 100 h are not built; `speechssl finetune` trains CTC",
    "sf, sd, qbe, se, ss, st": "no head, and no reader of their data",
}
_CLEANED = ("veri_test2.txt", "voxceleb1_test_v2.txt")  # trials that SUPERB scores
_AM_SOFTMAX: dict[str, Any] = {
    "pooling": "mean",
    "projector": 512,
    "dim": 512,
    "margin": 0.4,
    "scale": 30.0,
}  # SUPERB's
_FOLDS = range(1, 6)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A listed corpus."""

    manifest: Manifest
    answers: Mapping[str, Mapping[str, str]]  # id -> column -> label
    tables: Path  # the manifest's file; labels lie beside it
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """A task whose data is there."""

    name: TaskName
    title: str
    probes: tuple[ProbeConfig, ...]  # one, or one a fold, whose scores are averaged
    score: str  # of `downstream.head_scores`, or eer
    tested: int  # utterances of the test set, all folds together
    published: int | None  # number of them in SUPERB; None: its task is another
    differs: str  # from SUPERB
    trials: Path | None = None  # for verification by the embeddings of the probe's heads


def planned_tasks(config: SuperbConfig) -> list[PlannedTask]:
    """List the corpora, and write the manifests of the tasks that have data.

    Raises:
        CorpusError: a folder has another layout, a class is empty, or there is no folder for a task that was named.
        CheckpointError: the run has listed another folder for a corpus before.
    """
    corpora: dict[CorpusName, Corpus] = {}
    planned = []
    for name in config.tasks or TASKS:
        place = getattr(config.data, CORPUS_OF[name])
        if place is None and config.tasks:
            raise CorpusError(f"{name}: needs the folder of {CORPUS_OF[name]}; add {CORPUS_OF[name]}=FOLDER to --data")
        if place is None:
            continue
        corpus = CORPUS_OF[name]
        if corpus not in corpora:
            corpora[corpus] = listed_corpus(config, corpus, place)
        planned.append(_PLANS[name](config, corpora[corpus]))
    if not planned:
        raise CorpusError(f"--data names no folder, expected some of {', '.join(_LAYOUTS)}, each =FOLDER")
    return planned


def tasks_left_out(config: SuperbConfig) -> dict[str, str]:
    """Return the reason of each task of SUPERB that is left out."""
    missing = {
        name: f"no folder of {CORPUS_OF[name]}" for name in TASKS if getattr(config.data, CORPUS_OF[name]) is None
    }
    unwanted = {name: "not asked for" for name in TASKS if config.tasks and name not in config.tasks}
    return missing | unwanted | _ALWAYS_OUT


def listed_corpus(config: SuperbConfig, name: CorpusName, place: Path) -> Corpus:
    """List a corpus into `data/`, or read the list of an earlier start of the run.

    Raises:
        CheckpointError: that list is of another folder.
        CorpusError: the folder has another layout.
    """
    path = config.out / "data" / f"{name}.tsv"
    about = path.with_suffix(".json")
    if path.exists() and about.exists():
        said = json.loads(about.read_text(encoding="utf-8"))
        if said["folder"] != str(place.absolute()):
            raise CheckpointError(
                f"{about}: lists {said['folder']}, --data names {place.absolute()}; name the same, or another --out"
            )
        notes = said["notes"]
    else:
        listed = list_layout(_LAYOUTS[name], place)
        notes = list(listed.notes)
        write_labels(path, listed)
        described = {"folder": str(place.absolute()), "notes": notes, "trials": list(listed.trials)}
        write_atomically(about, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        write_manifest(path, listed.manifest.utterances, root=root_from(path.parent, listed.manifest))
    for note in notes:
        print(f"{name}: {note}", file=sys.stderr)
    table = path.with_name(f"{name}.answers.tsv")
    return Corpus(
        manifest=read_manifest(path),
        answers=read_table(table, ("id",)) if table.exists() else {},
        tables=path,
        notes=notes,
    )


def _plan_sid(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    rows = corpus.manifest.utterances
    if not any(row.split for row in rows):
        raise CorpusError(f"{config.data.voxceleb1}: has no iden_split.txt, which SID needs; add it, or leave sid out")
    return PlannedTask(
        name="sid",
        title="speaker identification, VoxCeleb1",
        probes=(
            _probe(
                config,
                "sid",
                _written(corpus, "sid", rows),
                UtteranceClassesConfig(column="speaker", layer_norm=config.layer_norm),
            ),
        ),
        score="accuracy",
        tested=sum(row.split == "test" for row in rows),
        published=8251,
        differs="training utterances are whole, not crops of 8 s; gradients are not clipped",
    )


def _plan_asv(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    """Plan an embedding, trained on the speakers that no trial has."""
    said = json.loads(corpus.tables.with_suffix(".json").read_text(encoding="utf-8"))
    lists = sorted(said["trials"], key=lambda name: (name not in _CLEANED, name))
    if not lists:
        raise CorpusError(f"{config.data.voxceleb1}: has no veri_test.txt, which ASV needs; add it, or leave asv out")
    rows = [
        row if corpus.answers[row.id]["verification"] == "dev" else dataclasses.replace(row, split="trials")
        for row in corpus.manifest.utterances
    ]
    if not any(row.split == "train" for row in rows):
        raise CorpusError(
            f"{config.data.voxceleb1}: has no iden_split.txt, which ASV trains by; add it, or leave asv out"
        )
    trials = corpus.tables.with_name(f"{corpus.tables.stem}.{Path(lists[0]).stem}.trials")
    return PlannedTask(
        name="asv",
        title="speaker verification, VoxCeleb1",
        probes=(
            _probe(
                config,
                "asv",
                _written(corpus, "asv", rows),
                SpeakerEmbeddingConfig(layer_norm=config.layer_norm, **_AM_SOFTMAX),
            ),
        ),
        score="eer",
        tested=len({name for line in trials.read_text(encoding="utf-8").split("\n") for name in line.split()[1:]}),
        published=None,
        differs="linear layers on the mean of frames, trained by AM-softmax; SUPERB's x-vector has a TDNN over frames",
        trials=trials,
    )


def _plan_ks(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    """Plan the twelve classes, with the separate test set if it is there."""
    separate = any(row.split == "test-twelve" for row in corpus.manifest.utterances)
    rows = []
    for row in corpus.manifest.utterances:
        split = row.split
        if separate:
            split = {"test-twelve": "test", "test": "unused"}.get(str(split), split)
        rows.append(dataclasses.replace(row, split=split))
    classes = (*TEN_WORDS, "_unknown_", "_silence_")
    for split in ("train", "test"):
        counts = Counter(corpus.answers[row.id]["twelve"] for row in rows if row.split == split)
        empty = [name for name in classes if not counts[name]]
        if empty:
            raise CorpusError(
                f"{config.data.speech_commands}: no {split} utterance of {', '.join(empty)}, expected some of each of "
                "the twelve classes; unpack the archive again, or leave ks out"
            )
    return PlannedTask(
        name="ks",
        title="keyword spotting, Speech Commands",
        probes=(
            _probe(
                config,
                "ks",
                _written(corpus, "ks", rows),
                UtteranceClassesConfig(column="twelve", layer_norm=config.layer_norm, class_weights="balanced"),
                answers=_answers(corpus),
            ),
        ),
        score="accuracy",
        tested=sum(row.split == "test" for row in rows),
        published=3081,
        differs="classes are balanced by weights in the loss, not by drawing; audio is not attenuated by 3 dB"
        + ("" if separate else "; the test set is that of testing_list.txt, where classes are not balanced"),
    )


def _plan_ic(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    rows = corpus.manifest.utterances
    return PlannedTask(
        name="ic",
        title="intent classification, Fluent Speech Commands",
        probes=(
            _probe(
                config,
                "ic",
                _written(corpus, "ic", rows),
                UtteranceClassesConfig(column="intent", layer_norm=config.layer_norm),
                answers=_answers(corpus),
                interval="speakers",
            ),
        ),
        score="accuracy",
        tested=sum(row.split == "test" for row in rows),
        published=3793,
        differs="one softmax over whole intents, not one for each slot",
    )


def _plan_er(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    """Plan five folds: one session is tested, the next one is the dev set, three are trained on."""
    labelled = [row for row in corpus.manifest.utterances if corpus.answers[row.id]["four"]]
    probes = []
    for fold in _FOLDS:
        dev = fold % len(_FOLDS) + 1
        names = {str(fold): "test", str(dev): "dev"}
        rows = [dataclasses.replace(row, split=names.get(corpus.answers[row.id]["fold"], "train")) for row in labelled]
        probes.append(
            _probe(
                config,
                "er",
                _written(corpus, f"er-fold-{fold}", rows),
                UtteranceClassesConfig(column="four", layer_norm=config.layer_norm),
                answers=_answers(corpus),
                shared_speakers=False,
                interval="speakers",
                below=f"fold-{fold}",
            )
        )
    return PlannedTask(
        name="er",
        title="emotion recognition, IEMOCAP, five folds",
        probes=tuple(probes),
        score="accuracy",
        tested=len(labelled),
        published=5531,
        differs="the dev set is a session of its own, not a fifth of the training utterances, so three sessions train",
    )


def _plan_pr(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    """Plan phones of frames, on `pr_hours` of training and of test set."""
    rows: list[Utterance] = []
    published = [row for row in corpus.manifest.utterances if row.split == "train"]
    parts = split_by_shares(published, {"dev": 0.1, "train": 0.9}, by="id")
    parts["test"] = [row for row in corpus.manifest.utterances if row.split == "test"]
    for split, part in parts.items():
        hours = sum(row.duration_s for row in part) / 3600
        drawn = part if hours <= config.pr_hours else sample(part, config.pr_hours, alpha=1.0, seed=0)
        if len(drawn) < len(part):
            print(
                f"pr: {len(drawn)} of {len(part)} utterances of {split}, pr_hours={config.pr_hours:g}", file=sys.stderr
            )
        rows += [dataclasses.replace(row, split=split) for row in drawn]
    return PlannedTask(
        name="pr",
        title="phones of frames, LibriSpeech",
        probes=(
            _probe(
                config,
                "pr",
                _written(corpus, "pr", rows),
                FrameClassesConfig(of="phones", layer_norm=config.layer_norm),
                phones=corpus.tables.with_name(f"{corpus.tables.stem}.phones.tsv"),
                interval="speakers",
            ),
        ),
        score="error_rate",
        tested=sum(row.split == "test" for row in rows),
        published=None,
        differs="aligned frames of CPC's split, merged to phones; SUPERB trains CTC on phones of a lexicon",
    )


def _plan_lid(config: SuperbConfig, corpus: Corpus) -> PlannedTask:
    """Plan the language of an utterance, from ten minutes a language."""
    names = {"train-10min": "train", "train-1h": "unused"}
    rows = [dataclasses.replace(row, split=names.get(str(row.split), row.split)) for row in corpus.manifest.utterances]
    return PlannedTask(
        name="lid",
        title="language identification, ML-SUPERB, 10 minutes a language",
        probes=(
            _probe(
                config,
                "lid",
                _written(corpus, "lid", rows),
                UtteranceClassesConfig(column="language", layer_norm=config.layer_norm),
            ),
        ),
        score="accuracy",
        tested=sum(row.split == "test" for row in rows),
        published=None,
        differs="a classifier of pooled frames; ML-SUPERB predicts a token of the language by CTC",
    )


_PLANS: dict[TaskName, Callable[[SuperbConfig, Corpus], PlannedTask]] = {
    "sid": _plan_sid,
    "asv": _plan_asv,
    "ks": _plan_ks,
    "ic": _plan_ic,
    "er": _plan_er,
    "pr": _plan_pr,
    "lid": _plan_lid,
}


def _written(corpus: Corpus, name: str, rows: Sequence[Utterance]) -> Path:
    """Write the manifest of a task beside that of its corpus."""
    path = corpus.tables.with_name(f"{name}.tsv")
    manifest = Manifest(root=corpus.manifest.root, utterances=tuple(rows))
    write_manifest(path, rows, root=root_from(path.parent, manifest))
    return path


def _answers(corpus: Corpus) -> Path:
    return corpus.tables.with_name(f"{corpus.tables.stem}.answers.tsv")


def _probe(
    config: SuperbConfig,
    name: TaskName,
    manifest: Path,
    task: UtteranceClassesConfig | FrameClassesConfig | SpeakerEmbeddingConfig,
    *,
    shared_speakers: bool = True,
    answers: Path | None = None,
    phones: Path | None = None,
    interval: Literal["utterances", "speakers"] = "utterances",
    below: str = "",
) -> ProbeConfig:
    train = getattr(config, name)
    if config.steps is not None:
        train = dataclasses.replace(train, steps=config.steps, eval_every=min(train.eval_every, config.steps))
    return ProbeConfig(
        out=config.out / name / below,
        task=task,
        data=DataConfig(manifests=(manifest,), bad_audio=config.bad_audio),
        split=SplitRule(by="split"),
        shared_speakers=shared_speakers,
        answers=answers,
        phones=phones,
        checkpoint=config.model,
        layers=config.layers,
        random_weights=config.random_weights,
        baselines=config.baselines,
        features=config.out / "features",
        dtype=config.dtype,
        extract=config.extract,
        processes=config.processes,
        memory_mb=config.memory_mb,
        train=train,
        seeds=config.seeds,
        interval=interval,
    )
