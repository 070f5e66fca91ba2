"""Stage `selftrain`: pseudo-labels for a pool -> training on labels and pseudo-labels -> better pseudo-labels ...

Noisy student training (Xie et al., arXiv:1911.04252; for speech Park et al., arXiv:2005.09629) on top of pretraining
(Xu et al., arXiv:2010.11430): every round starts from the pretrained encoder, and dev says when to stop. The steps are
`selftrain_data`, `pseudo_labels` and `finetune` with their own configurations; a step that was finished from the same
inputs is skipped. Under `out`: 0-data, 0-asr, 1-labels, 1-asr, 2-labels, ...; record.jsonl; report.md; best.
"""

import dataclasses
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.data.batching import BatchSampler
from speechssl.data.manifest import read_manifest
from speechssl.errors import ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.stages.augmentation import span_of_speeds
from speechssl.stages.finetune import FinetuneConfig, check_texts, finetune
from speechssl.stages.pseudo_labels import LabelConfig, label
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.stages.record import RunRecord, content_hash, file_hashes, model_fingerprint, step_inputs
from speechssl.stages.selftrain_data import PrepareConfig, prepare
from speechssl.stages.selftrain_recipe import SelftrainConfig, training, tuning
from speechssl.stages.selftrain_report import Round, report_of
from speechssl.stages.synthetic_effect import EffectConfig, compare_on_dev, require_columns
from speechssl.train.checkpoint import last_checkpoint, read_state
from speechssl.train.log_file import read_log_file
from speechssl.train.run_folder import locked

__all__ = ["SelftrainConfig", "selftrain"]

LABEL_FILES = ["labels.json", "pseudo.tsv", "scores.tsv", "weights.tsv"]


def selftrain(config: SelftrainConfig) -> Path:
    """Run the unfinished steps of all rounds, print the report and return its path.

    Raises:
        CheckpointError: the inputs of a finished step have changed, and `redo` is off.
        ConfigError: the stage was started by torchrun.
        ManifestError: dev or test share audio or texts with what is trained on; or nothing is left to train on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("selftrain runs in one process; run it without torchrun")
    with locked(config.out):
        return _selftrain(config)


def _selftrain(config: SelftrainConfig) -> Path:
    record = RunRecord(config.out, redo=config.redo)
    _look(config)
    _prepare(record, config)
    _plan_batches(config)
    effect = None
    if config.recogniser is None:
        rounds = [_train(record, config, 0)]
        if config.synthetic is not None and config.synthetic.compare:
            effect = _compare(record, config, rounds[0], _train(record, config, 0, real_only=True))
    else:
        _look_at_texts(config)
        model = read_saved(config.recogniser).fingerprint()
        rounds = [Round(number=0, name=str(config.recogniser), model=config.recogniser, fingerprint=model)]
    best = rounds[0]
    for number in range(1, config.rounds + 1):
        labels = _label(record, config, number, best)
        if best.cer is None:
            greedy = labels["dev"]
            best = dataclasses.replace(best, cer=greedy["greedy_cer"], wer=greedy["greedy_wer"])
            rounds = [best]
        found = dataclasses.replace(_train(record, config, number), labels=labels)
        rounds.append(found)
        assert found.cer is not None and best.cer is not None
        gain = (best.cer - found.cer) / best.cer if best.cer else 0.0
        if gain > 0:
            best = found
        if gain < config.min_gain or gain <= 0:
            break
    _copy_best(config.out / "best", best)
    data = json.loads((config.out / "0-data/data.json").read_text(encoding="utf-8"))
    text = report_of(config, record, rounds, best, data, effect)
    report = config.out / "report.md"
    if not report.exists() or report.read_text(encoding="utf-8") != text:
        write_atomically(report, text)
    print(text)
    return report


def _look(config: SelftrainConfig) -> None:
    """Read what later steps need, so that a wrong name stops the chain now and not after hours.

    Raises:
        CheckpointError: a model, language model or lexicon cannot be read.
        ManifestError: dev lacks a column that is to tell groups apart.
    """
    second = None if config.keep.second in ("none", "dropout") else Path(config.keep.second)
    for model in (config.checkpoint, config.recogniser, second):
        if model is not None:
            saved = read_saved(model)
            if model != config.checkpoint:
                saved.vocabulary()
    for name in ("lm", "lexicon"):
        if (path := getattr(config.decode, name, None)) is not None:
            content_hash(path)
    if config.synthetic is not None and config.synthetic.compare:
        require_columns(read_data(config.dev, section="dev"), config.synthetic.groups)


def _plan_batches(config: SelftrainConfig) -> None:
    """Plan the labels' batches in the rounds with pseudo-labels, so that one too long for them is found at once.

    Raises:
        ManifestError: a labelled utterance is longer than a batch.
    """
    student = training(config, 1).finetune
    rows = read_manifest(config.out / "0-data/labelled.tsv").utterances
    speeds = student.augment.speeds_of(len(rows), seed=config.seed)
    BatchSampler(rows, student.batch, seed=config.seed, speeds=speeds)


def _look_at_texts(config: SelftrainConfig) -> None:
    """Check labels and dev as round 0 would, which a given recogniser replaces: not only when the pool is labelled.

    Raises:
        SpeechSSLError: texts, tokens or lengths do not fit the training.
    """
    student = training(config, 1).finetune
    labels = dataclasses.replace(student.data, manifests=student.data.manifests[:-1])  # the last are pseudo-labels
    check_texts(dataclasses.replace(student, data=labels, weights=None, pseudo=None)).refuse()


def _prepare(record: RunRecord, config: SelftrainConfig) -> None:
    synthetic = config.synthetic
    step = PrepareConfig(
        out=config.out / "0-data",
        labelled=config.labelled,
        pool=config.pool,
        dev=config.dev,
        test=config.test,
        synthetic=None if synthetic is None else dataclasses.replace(synthetic, compare=False, groups=()),
        leaks=config.leaks,
        languages=config.languages,
        seed=config.seed,
    )
    names = ["data.json", "labelled.tsv", "pool.tsv", "left_out.tsv", *(["synthetic.tsv"] if synthetic else [])]
    inputs = step_inputs(step, record.out, model=None)
    record.perform(step.out.name, inputs, partial(prepare, step), partial(file_hashes, step.out, names))


def _train(record: RunRecord, config: SelftrainConfig, number: int, *, real_only: bool = False) -> Round:
    """Train the recogniser of a round, and return it with its scores on dev."""
    step = training(config, number, real_only=real_only).finetune
    inputs = step_inputs(step, record.out, model=read_saved(step.checkpoint).fingerprint())
    record.perform(step.out.name, inputs, partial(finetune, step), partial(model_fingerprint, step.out))
    model, cer, wer = _best_of(step)
    return Round(
        number=number,
        name=step.out.name,
        model=model,
        fingerprint=read_saved(model).fingerprint(),
        cer=cer,
        wer=wer,
        seconds=record.seconds(step.out.name),
    )


def _compare(record: RunRecord, config: SelftrainConfig, with_it: Round, without: Round) -> list[dict[str, Any]]:
    """Compare the recognisers with and without synthetic speech on dev, and return a row for each group."""
    assert config.synthetic is not None
    step = EffectConfig(
        out=config.out / "0-synthetic",
        checkpoint=with_it.model,
        without=without.fingerprint,
        dev=config.dev,
        groups=config.synthetic.groups,
        seed=config.seed,
    )
    inputs = step_inputs(step, record.out, model=with_it.fingerprint)
    record.perform(
        step.out.name,
        inputs,
        partial(compare_on_dev, step, without.model),
        partial(file_hashes, step.out, ["effect.json"]),
    )
    found: list[dict[str, Any]] = json.loads((step.out / "effect.json").read_text(encoding="utf-8"))["groups"]
    return found


def _label(record: RunRecord, config: SelftrainConfig, number: int, teacher: Round) -> dict[str, Any]:
    """Make the pseudo-labels of a round, and return the content of labels.json."""
    prepared = config.out / "0-data"
    student = training(config, number).finetune
    slowest, fastest = span_of_speeds(student.augment, student.pseudo)
    synthetic = DataConfig(manifests=(prepared / "synthetic.tsv",)) if config.synthetic is not None else None
    step = LabelConfig(
        out=config.out / f"{number}-labels",
        checkpoint=teacher.model,
        labelled=DataConfig(manifests=(prepared / "labelled.tsv",)),
        synthetic=synthetic,
        pool=dataclasses.replace(config.pool, manifests=(prepared / "pool.tsv",), root=None),
        dev=config.dev,
        decode=config.decode,
        tune=tuning(config),
        keep=config.keep,
        round=number,
        longest_s=student.batch.seconds * slowest if student.batch.max_crop_s is None else float("inf"),
        fastest=fastest,
        seed=config.seed,
    )
    inputs = step_inputs(step, record.out, model=teacher.fingerprint)
    record.perform(step.out.name, inputs, partial(label, step), partial(file_hashes, step.out, LABEL_FILES))
    found: dict[str, Any] = json.loads((step.out / "labels.json").read_text(encoding="utf-8"))
    return found | {"seconds": record.seconds(step.out.name)}


def _best_of(run: FinetuneConfig) -> tuple[Path, float, float]:
    """Return the best step of a training, or the mean of its best steps, with CER and WER on dev."""
    last = last_checkpoint(run.out)
    assert last is not None
    state = read_state(last)
    scores = run.out / "average/scores.json"
    if scores.exists():
        averaged = json.loads(scores.read_text(encoding="utf-8"))
        if state.best_score is None or averaged["dev_cer"] < state.best_score:
            return run.out / "average", averaged["dev_cer"], averaged["dev_wer"]
    rows = [row for row in read_log_file(run.out / "log.jsonl")[0] if "dev_cer" in row]
    best = next(row for row in reversed(rows) if row["step"] == state.best_step)
    return run.out, best["dev_cer"], best["dev_wer"]


def _copy_best(folder: Path, best: Round) -> None:
    """Copy the best model into a folder of its own, unless it is there already."""
    if (folder / "model.json").exists() and read_saved(folder).fingerprint() == best.fingerprint:
        return
    shutil.rmtree(folder, ignore_errors=True)
    read_saved(best.model).write(folder)
    print(f"best: {best.name}, copied to {folder}", file=sys.stderr)
