"""Stage `pretrain`: manifest -> batches -> trunk + objective -> checkpoints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from speechssl.config import configuration, from_dict
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset, load_batches
from speechssl.data.labels import FrameLabels, read_labels
from speechssl.data.manifest import Manifest
from speechssl.errors import CheckpointError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.objective.masked_prediction import MaskedPredictionConfig
from speechssl.objective.pretraining import ObjectiveConfig, PretrainModel, build_objective
from speechssl.parallel import start_ranks
from speechssl.stages.data import DataConfig, read_data, tell_left_out
from speechssl.train.checkpoint import (
    claim_run_folder,
    last_checkpoint,
    load_model,
    read_config,
    read_state,
    run_folder,
)
from speechssl.train.loop import TrainConfig, fit
from speechssl.train.optim import OptimConfig

__all__ = ["PretrainConfig", "load_encoder", "pretrain"]


@configuration
class PretrainConfig:
    """A pretraining run with either method."""

    out: Path
    data: DataConfig
    labels: tuple[Path, ...] = ()  # one file a stream, from `speechssl cluster`
    encoder: EncoderConfig = EncoderConfig()
    objective: ObjectiveConfig = MaskedPredictionConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0


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
    encoder = config.encoder
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
        config.data.audio,
        hop=encoder.hop,
        window=encoder.window,
        labels=labels,
        skip_bad_audio=config.data.bad_audio == "skip",
    )
    torch.manual_seed(config.seed)
    objective = build_objective(
        config.objective,
        dim=encoder.transformer.dim,
        conv_dim=encoder.conv[-1][0],
        clusters=tuple(stream.source.clusters for stream in labels),
    )
    return fit(
        PretrainModel(SpeechEncoder(encoder), objective),
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


def load_encoder(run: Path) -> tuple[SpeechEncoder, str]:
    """Load the trunk of a pretraining run.

    Args:
        run: folder of the run, or of one of its checkpoints.

    Returns:
        The encoder, in evaluation mode, and the name of the checkpoint it came from.

    Raises:
        CheckpointError: no run, no checkpoint, or one that does not fit its own configuration.
    """
    folder = run_folder(run)
    checkpoint = last_checkpoint(run) if folder == run else run
    if checkpoint is None:
        raise CheckpointError(f"{run}: holds no checkpoint; name the folder of a pretraining run")
    config = from_dict(read_config(folder), PretrainConfig, where=str(folder / "config.json"))
    encoder = SpeechEncoder(config.encoder)
    load_model(checkpoint, encoder, prefix="encoder.")
    return encoder.eval(), f"{folder.name}/{checkpoint.name}"


def is_finished(out: Path) -> bool:
    """Return whether the run in a folder has made its last step."""
    checkpoint = last_checkpoint(out)
    return checkpoint is not None and read_state(checkpoint).is_finished
