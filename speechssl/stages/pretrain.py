"""Stage `pretrain`: manifest -> batches -> trunk + objective -> checkpoints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from speechssl.config import configuration
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset, load_batches
from speechssl.data.labels import FrameLabels, read_labels
from speechssl.data.manifest import Manifest
from speechssl.errors import CheckpointError, ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.objective.masked_prediction import MaskedPredictionConfig
from speechssl.objective.pretraining import ObjectiveConfig, PretrainModel
from speechssl.parallel import start_ranks
from speechssl.saved import Description, SavedModel, build_model, describe_model
from speechssl.stages.data import DataConfig, like_training, read_data, tell_left_out
from speechssl.train.checkpoint import claim_run_folder, fill
from speechssl.train.loop import TrainConfig, fit
from speechssl.train.optim import OptimConfig

__all__ = ["PretrainConfig", "pretrain"]


@configuration
class PretrainConfig:
    """A pretraining run with either method."""

    out: Path
    data: DataConfig
    labels: tuple[Path, ...] = ()  # one file a stream, from `speechssl cluster`
    checkpoint: Path | None = None  # model to go on from, with this run's own schedule; None: random weights
    fresh_head: bool = False  # start quantizer or label head anew; only the trunk of the checkpoint is kept
    encoder: EncoderConfig | None = None  # None: that of the checkpoint, or BASE without one
    objective: ObjectiveConfig = MaskedPredictionConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.encoder is not None:
            raise ConfigError("encoder comes from the checkpoint; remove one of the two keys")


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain an encoder, or continue to, and return the folder of the last checkpoint."""
    ranks = start_ranks()
    if ranks.is_first:
        claim_run_folder(config.out, config)
    ranks.wait()
    manifest = read_data(config.data)
    labels = [read_labels(path) for path in config.labels]
    if config.data.bad_audio == "skip":
        manifest = _with_labels(manifest, labels)
    for path, stream in zip(config.labels, labels, strict=True):
        stream.check(manifest, where=str(path))
    start = None if config.checkpoint is None else SavedModel.read(config.checkpoint)
    data = like_training(config.data, start.description.audio, where=start.name) if start else config.data
    description = _describe(config, data, start, labels)
    encoder = description.encoder
    sampler = BatchSampler(
        manifest.utterances,
        config.batch,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        hop=encoder.hop,
    )
    tell_left_out(sampler.left_out, f"shorter than batch.min_s={config.batch.min_s}")
    dataset = SpeechDataset(
        manifest,
        data.audio,
        hop=encoder.hop,
        window=encoder.window,
        labels=labels,
        skip_bad_audio=data.bad_audio == "skip",
    )
    torch.manual_seed(config.seed)
    model = _build(description, start, fresh_head=config.fresh_head)
    if ranks.is_first:
        describe_model(config.out, description)
    return fit(
        model,
        lambda epoch, position: load_batches(
            dataset, sampler, epoch=epoch, position=position, workers=config.train.workers
        ),
        out=config.out,
        seed=config.seed,
        optim=config.optim,
        config=config.train,
        ranks=ranks,
        title=f"pretrain {config.objective.kind}",
    )


def _with_labels(manifest: Manifest, labels: Sequence[FrameLabels]) -> Manifest:
    """Leave out what stage `cluster` skipped as bad audio; labels of another corpus are left for `check` to refuse."""
    missing = {row.id: None for row in manifest.utterances if any(row.id not in stream.units for stream in labels)}
    if len(missing) == len(manifest.utterances):
        return manifest
    tell_left_out([*missing], "without labels")
    return dataclasses.replace(manifest, utterances=tuple(row for row in manifest.utterances if row.id not in missing))


def _describe(
    config: PretrainConfig, data: DataConfig, start: SavedModel | None, labels: Sequence[FrameLabels]
) -> Description:
    """Say what the run makes: the trunk of the checkpoint or of the recipe, and the recipe's objective."""
    trunk = config.encoder or EncoderConfig()
    return Description(
        encoder=trunk if start is None else start.description.encoder,
        objective=config.objective,
        clusters=tuple(stream.source.clusters for stream in labels),
        audio=dataclasses.replace(data.audio, normalize=bool(data.audio.normalize)),
    )


def _build(description: Description, start: SavedModel | None, *, fresh_head: bool) -> PretrainModel:
    """Build the model with random weights, or with those of the checkpoint.

    Raises:
        CheckpointError: the checkpoint's head is of another objective or size, and `fresh_head` is off.
    """
    model = build_model(description)
    assert isinstance(model, PretrainModel)
    if start is None:
        return model
    fill(model.encoder, start.tensors, prefix="encoder.", where=start.name)
    if not fresh_head:
        try:
            fill(model.objective, start.tensors, prefix="objective.", where=start.name)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; its head cannot be kept: set fresh_head=true") from error
    return model
