"""Stage `pretrain`: manifest -> batches -> trunk + objective -> checkpoints."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from speechssl.config import configuration, flatten, like, to_dict
from speechssl.corpus.named import read_named
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import BatchConfig, BatchSampler, seeded_generator
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.labels import FrameLabels, join_labels, read_labels
from speechssl.data.utterances import Manifest
from speechssl.errors import CheckpointError, ConfigError, LabelError, ManifestError
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import Description, SavedModel, build_model, check_units, describe_model
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig
from speechssl.parallel import start_ranks
from speechssl.stages.preflight_audio import Reading, refuse_audio, tell_notes
from speechssl.stages.probe import prober
from speechssl.stages.reading_data import DataConfig, like_training, read_data, tell_left_out
from speechssl.stages.training import Prepared, train
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import DEFAULT_OBJECTIVE, ObjectiveConfig, task_of
from speechssl.tasks.visible import DECODER_KEYS
from speechssl.train.checkpoint import fill, is_finished
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig
from speechssl.train.run_folder import hold_run_folder
from speechssl.train.runlog import require_reports

__all__ = ["PretrainConfig", "prepare_pretraining", "pretrain", "too_few_hours", "too_many_frames"]

_MANY_FRAMES = 200  # a second: every 5 ms; published encoders make 25 to 100

ClassColumn = Literal["language", "speaker"]


@configuration
class PretrainConfig:
    """A pretraining run with any registered objective; the defaults are HuBERT BASE."""

    out: Path
    data: DataConfig
    labels: tuple[Path | tuple[Path, ...], ...] = ()  # from `speechssl cluster`: one file, or a list, for each stream
    classes: ClassColumn | None = None  # manifest column with the classes, for an objective that needs classes
    dev: DataConfig | None = like("data", "audio", old="valid")  # held-out set, scored every train.eval_every steps
    checkpoint: Path | None = None  # model to start from, with this run's own schedule; None: random weights
    fresh_head: bool = False  # keep only the trunk of the checkpoint; quantizer or label head start from random weights
    encoder: EncoderConfig | None = None  # None: the checkpoint's encoder, or BASE without a checkpoint
    objective: ObjectiveConfig = DEFAULT_OBJECTIVE
    batch: BatchConfig = BatchConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(max_grad_norm=10.0)  # wav2vec 2.0: null
    train: TrainConfig = TrainConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.encoder is not None:
            raise ConfigError("encoder comes from the checkpoint; remove one of the two keys")
        if self.labels and self.augment.changes_speed:
            raise ConfigError(
                f"augment.speeds is {self.augment.speeds}, but labels belong to the frames of the audio as recorded; "
                "remove augment.speeds, or the labels"
            )


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain an encoder, resuming if the run has begun, and return the folder of the last checkpoint."""
    require_reports(config.train.log)
    ranks = start_ranks()
    with hold_run_folder(config.out, config, ranks):
        is_looking = ranks.is_first and not is_finished(config.out)
        prepared = prepare_pretraining(config, look=is_looking)
        if is_looking and config.checkpoint is None:
            tell_notes([*too_few_hours(config, ranks.world_size), *too_many_frames(prepared.description.encoder)])
        if ranks.is_first:
            describe_model(config.out, prepared.description)
        return train(prepared, out=config.out, seed=config.seed, optim=config.optim, config=config.train, ranks=ranks)


def too_few_hours(config: PretrainConfig, world_size: int) -> list[str]:
    """Return a note if a run from random weights is planned to see fewer hours than its method needs."""
    seconds = config.batch.seconds * config.train.accumulate * world_size * config.train.steps
    is_small = (config.encoder or EncoderConfig()).transformer.dim < EncoderConfig.base().transformer.dim
    note = task_of(config.objective).planning.too_few_hours(seconds / 3600, is_small=is_small)
    return [f"{config.train.steps} steps of {seconds / config.train.steps:g} s are planned, {note}"] if note else []


def too_many_frames(encoder: EncoderConfig) -> list[str]:
    """Return a note if the frame rate is far above those of speech encoders, as that of a stack for the other input."""
    if encoder.frames_per_second <= _MANY_FRAMES:
        return []
    other = "raise its strides" if encoder.input == "log_mel" else "raise its strides, or set encoder.input=log_mel"
    return [
        f"encoder.conv makes {encoder.frames_per_second:g} frames a second, expected 25 to 100: the memory of the "
        f"layers grows with their square; {other}"
    ]


def prepare_pretraining(config: PretrainConfig, *, look: bool = False) -> Prepared:
    """Prepare model and data; with `look`, check the audio files before any is read."""
    streams = read_streams(config.labels)
    labels = [*streams.values()]
    manifest = _labelled(config.data, streams)
    start = None if config.checkpoint is None else read_saved(config.checkpoint)
    data = like_training(config.data, start.description.audio, where=start.name) if start else config.data
    class_of = _classes(manifest, config.classes)
    classes = sorted({*class_of.values()})
    description = _describe(config, data, start, labels, classes)
    encoder = description.encoder
    tokens = _class_tokens(class_of, config.classes, classes)
    dataset = _dataset(manifest, data, encoder, labels, tokens, augment=config.augment, seed=config.seed)
    sampler = BatchSampler(manifest.utterances, config.batch, seed=config.seed, hop=encoder.hop, speeds=dataset.speeds)
    tell_left_out(sampler.left_out, f"shorter than batch.min_s={config.batch.min_s}")
    dev_set = _dev_set(config, data, manifest, encoder, streams, classes)
    if look:
        batch, window = config.batch, encoder.window
        reads = [
            Reading(
                section="data",
                manifest=manifest,
                data=data,
                window=window,
                min_s=batch.min_s,
                max_crop_s=batch.max_crop_s,
            )
        ]
        if config.dev is not None and dev_set is not None:
            reads.append(Reading(section="dev", manifest=dev_set.manifest, data=config.dev, window=window))
        tell_notes(refuse_audio(*reads))
    torch.manual_seed(config.seed)
    return Prepared(
        title=f"pretrain {config.objective.kind}",
        model=_build(description, start, fresh_head=config.fresh_head),
        description=description,
        dataset=dataset,
        sampler=sampler,
        data=data,
        evaluate=None
        if dev_set is None
        else partial(score_dev_set, dev_set, seconds=config.batch.seconds, seed=config.seed),
        probe=prober(
            data,
            read_data(config.dev, section="dev") if config.dev and config.train.health.probe_every else manifest,
            minutes=config.train.health.probe_minutes,
            seed=config.seed,
            window=encoder.window,
        ),
    )


def read_streams(files: Sequence[Path | Sequence[Path]]) -> dict[str, FrameLabels]:
    """Read the labels of each stream, keyed by the names of their files.

    Raises:
        LabelError: a file cannot be read, or those of one stream do not belong together.
    """
    grouped = [(item,) if isinstance(item, Path) else item for item in files]
    return {", ".join(map(str, paths)): join_labels((path, read_labels(path)) for path in paths) for paths in grouped}


@torch.no_grad()
def score_dev_set(dataset: SpeechDataset, model: nn.Module, *, seconds: float, seed: int) -> dict[str, float]:
    """Return loss and metrics on the dev set: whole utterances in a fixed order, with the same masks each time.

    Args:
        dataset: the utterances, with their labels.
        model: model of a pretraining task, in evaluation mode.
        seconds: seconds of audio in a batch, padding counted.
        seed: seed of the masks and negatives.

    Returns:
        The mean loss over all predictions, and the objective's metrics averaged with the number of predictions of
        each batch as weight.

    Raises:
        ManifestError: no utterance has usable audio.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    generator.manual_seed(seeded_generator(seed, "held-out masks").initial_seed())
    totals: dict[str, float] = {}
    count = skipped = 0
    for batch in load_in_order(dataset, seconds=seconds):
        skipped += len(batch.skipped)
        if batch.ids:
            loss = model(batch.to(device), StepContext(generator=generator))
            count += int(loss.count)
            sums = {"loss": loss.value} | {name: part * loss.count for name, part in loss.parts.items()}
            totals |= {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
    if not count:
        raise ManifestError("dev: no utterance has audio that can be used; correct dev.manifests")
    return {f"dev_{name}": total / count for name, total in totals.items()} | {"dev_skipped": skipped}


def _dev_set(
    config: PretrainConfig,
    data: DataConfig,
    trained: Manifest,
    encoder: EncoderConfig,
    streams: Mapping[str, FrameLabels],
    classes: Sequence[str],
) -> SpeechDataset | None:
    """Return the dataset of `config.dev`, or None if there is no dev set.

    Raises:
        ManifestError: utterances are in the training set, too, all are shorter than `batch.min_s`, or one has a class
            that is not in the training set.
        LabelError: utterances lack labels.
    """
    if config.dev is None:
        return None
    manifest = _labelled(config.dev, streams, section="dev")
    seen = {row.id for row in trained.utterances} & {row.id for row in manifest.utterances}
    if seen:
        raise ManifestError(
            f"dev: {len(seen)} utterances are trained on: {', '.join(sorted(seen)[:3])}; "
            "take them out of data.manifests or of dev.manifests"
        )
    short = [row.id for row in manifest.utterances if row.duration_s < config.batch.min_s]
    tell_left_out(short, f"in dev but shorter than batch.min_s={config.batch.min_s}")
    dev_set = dataclasses.replace(manifest, utterances=tuple(r for r in manifest.utterances if r.id not in {*short}))
    dev = like_training(config.dev, data.audio, where=str(config.out), section="dev")
    tokens = _class_tokens(_classes(dev_set, config.classes, section="dev"), config.classes, classes, section="dev")
    return _dataset(dev_set, dev, encoder, [*streams.values()], tokens, section="dev")


def _dataset(
    manifest: Manifest,
    data: DataConfig,
    encoder: EncoderConfig,
    labels: Sequence[FrameLabels],
    tokens: Mapping[str, Sequence[int]] | None = None,
    *,
    section: str = "data",
    augment: AugmentConfig | None = None,
    seed: int = 0,
) -> SpeechDataset:
    return SpeechDataset(
        manifest,
        data.audio,
        hop=encoder.hop,
        window=encoder.window,
        labels=labels,
        tokens=tokens,
        skip_bad=data.bad_audio == "skip",
        speeds=None if augment is None else augment.speeds_of(len(manifest.utterances), seed=seed),
        augment=None if augment is None else augment.augmenter(data.audio, seed=seed, read=read_named),
        settings=f"{section}.audio.",
    )


def _classes(manifest: Manifest, column: ClassColumn | None, *, section: str = "data") -> dict[str, str]:
    """Return the class of each utterance, by its id; nothing without a column.

    Raises:
        ManifestError: an utterance has none.
    """
    found = {row.id: getattr(row, column) for row in manifest.utterances} if column else {}
    without = [key for key, value in found.items() if not value]
    if without:
        raise ManifestError(
            f"{section}: {len(without)} utterances have no {column}, expected one of each with classes={column}: "
            f"{', '.join(without[:3])}; fill the column of {section}.manifests"
        )
    return found


def _class_tokens(
    class_of: Mapping[str, str], column: ClassColumn | None, classes: Sequence[str], *, section: str = "data"
) -> dict[str, list[int]] | None:
    """Return the number of each utterance's class, as a text of one token; None without a column.

    Raises:
        ManifestError: an utterance has a class that is not among `classes`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for key, name in class_of.items():
        if name in numbers:
            continue
        raise ManifestError(
            f"{section}: {column} {name!r} of {key} is of no utterance that is trained on ({', '.join(classes)}); take "
            f"it out of {section}.manifests"
        )
    return {key: [numbers[name]] for key, name in class_of.items()} if column else None


def _labelled(data: DataConfig, streams: Mapping[str, FrameLabels], *, section: str = "data") -> Manifest:
    """Read the manifests and check them against the labels, without utterances that clustering skipped as bad audio."""
    manifest = read_data(data, section=section)
    if data.bad_audio == "skip":
        manifest = _with_labels(manifest, [*streams.values()])
    for where, stream in streams.items():
        stream.check(manifest, where=where)
    return manifest


def _with_labels(manifest: Manifest, labels: Sequence[FrameLabels]) -> Manifest:
    """Leave out utterances that stage `cluster` skipped; labels of another corpus are for `check` to refuse."""
    missing = {row.id: None for row in manifest.utterances if any(row.id not in stream.units for stream in labels)}
    if len(missing) == len(manifest.utterances):
        return manifest
    tell_left_out([*missing], "without labels")
    return dataclasses.replace(manifest, utterances=tuple(row for row in manifest.utterances if row.id not in missing))


def _describe(
    config: PretrainConfig,
    data: DataConfig,
    start: SavedModel | None,
    labels: Sequence[FrameLabels],
    classes: Sequence[str],
) -> Description:
    """Describe the model: the trunk of the checkpoint or of the recipe, and the recipe's objective."""
    trunk = config.encoder or EncoderConfig()
    return Description(
        encoder=trunk if start is None else start.description.encoder,
        objective=config.objective,
        clusters=tuple(stream.source.clusters for stream in labels),
        labels=tuple(stream.source for stream in labels),
        classes=tuple(classes),
        audio=dataclasses.replace(data.audio, normalize=bool(data.audio.normalize)),
    )


def _build(description: Description, start: SavedModel | None, *, fresh_head: bool) -> PretrainModel:
    """Build the model with random weights, or with those of the checkpoint.

    Raises:
        CheckpointError: the checkpoint's head has another objective or size, and `fresh_head` is off.
        LabelError: the checkpoint's head was trained on units of another k-means, and `fresh_head` is off.
    """
    model = build_model(description)
    assert isinstance(model, PretrainModel)
    if start is None:
        return model
    fill(model.encoder, start.tensors, prefix="encoder.", where=start.name)
    model.objective.attach(model.encoder)
    if not fresh_head:
        _check_head(description, start)
        try:
            fill(model.objective, start.tensors, prefix="objective.", where=start.name)
        except CheckpointError as error:
            reason = _other_head(description.objective, start)
            raise CheckpointError(reason or f"{error}; its head cannot be kept: set fresh_head=true") from error
        _tell_other_objective(description.objective, start)
    return model


def _other_head(ours: ObjectiveConfig | None, start: SavedModel) -> str:
    """Return an error text that names the settings under which the head cannot be kept; empty if there are none."""
    theirs = start.description.objective
    if theirs is None or ours is None:
        return ""
    if theirs.kind != ours.kind:
        return (
            f"{start.name}: its head was made with objective.kind={theirs.kind}, this recipe says {ours.kind}; set "
            "fresh_head=true to replace it by a new one"
        )
    made, wanted = (flatten(to_dict(each)) for each in (theirs, ours))
    decoders = [getattr(each, "visible", None) for each in (theirs, ours)]
    if decoders[0] is None and decoders[1] is not None:
        return (
            f"{start.name}: it was trained without objective.visible, and has no decoder; remove objective.visible to "
            "continue with its head, or set fresh_head=true to replace it by a new one"
        )
    keys = [*task_of(theirs).head_keys(theirs), *(f"visible.{key}" for key in DECODER_KEYS)]
    different = [key for key in keys if made.get(key) != wanted.get(key)]
    if not different:
        return ""
    named = " and ".join(f"objective.{key}={made[key]}" for key in different)
    found = " and ".join(f"{wanted.get(key)}" for key in different)
    again = " ".join(f"objective.{key}={made[key]}" for key in different)
    return (
        f"{start.name}: its head was made with {named}, this recipe says {found}; set {again} to continue with it, or "
        "fresh_head=true to replace it by a new one"
    )


def _tell_other_objective(ours: ObjectiveConfig | None, start: SavedModel) -> None:
    """Print the settings that differ from those the kept head was trained with."""
    theirs = start.description.objective
    if theirs is None or ours is None:
        return
    made, wanted = (flatten(to_dict(each)) for each in (theirs, ours))
    different = [f"objective.{key} was {made[key]}, is {wanted[key]}" for key in made if made[key] != wanted.get(key)]
    if different:
        print(f"{start.name}: its head is kept, with other settings: {', '.join(different)}", file=sys.stderr)


def _check_head(description: Description, start: SavedModel) -> None:
    theirs = start.description
    if theirs.classes != description.classes and theirs.method == description.method:
        raise LabelError(
            f"{start.name}: its head tells {', '.join(theirs.classes)} apart, the manifests have "
            f"{', '.join(description.classes)}; set fresh_head=true to learn these"
        )
    if description.task is None or "labels" not in description.task.needs or theirs.method != description.method:
        return
    if theirs.labels:
        try:
            check_units(theirs.labels, description.labels, where=start.name)
        except LabelError as error:
            raise LabelError(f"{error}, or set fresh_head=true to learn new units") from error
    elif theirs.clusters != description.clusters:
        raise LabelError(
            f"{start.name}: its head predicts {' and '.join(map(str, theirs.clusters))} units, the labels have "
            f"{' and '.join(map(str, description.clusters))}; name labels of the k-means it was trained with, or set "
            "fresh_head=true to learn new units"
        )
    else:
        print(
            f"{start.name} does not say which k-means made its units; they are taken for the labels'", file=sys.stderr
        )
