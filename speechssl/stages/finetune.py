"""Stage `finetune`: pretrained trunk + transcripts -> CTC model, watched by CER on a development set."""

import dataclasses
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from speechssl.config import configuration
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.manifest import Manifest
from speechssl.data.vocabulary import Vocabulary
from speechssl.decoding.greedy import greedy_decode
from speechssl.errors import ManifestError, VocabularyError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.objective.ctc import CTCConfig, CTCModel
from speechssl.parallel import start_ranks
from speechssl.saved import Description, SavedModel, describe_model
from speechssl.score.wer import score_texts
from speechssl.stages.data import DataConfig, like_training, read_data, tell_left_out
from speechssl.stages.training import Task, train
from speechssl.train.checkpoint import fill
from speechssl.train.loop import TrainConfig
from speechssl.train.optim import OptimConfig
from speechssl.train.run_folder import hold_run_folder

__all__ = ["FinetuneConfig", "finetune", "finetuned_encoder", "finetuning_task", "transcribe_manifest"]


@configuration
class FinetuneConfig:
    """A CTC fine-tuning run."""

    out: Path
    checkpoint: Path  # folder of a run, or of a converted model
    random_weights: bool = False  # take the architecture of the checkpoint only: the control experiment
    data: DataConfig
    dev: DataConfig | None = None  # picks the best step; without it the last step counts
    too_short: Literal["stop", "skip"] = "stop"  # utterances with fewer frames than their text needs; skip: leave out
    ctc: CTCConfig = CTCConfig()
    dropout: float | None = None  # in the Transformer; None keeps that of pretraining
    layer_drop: float | None = None
    batch: BatchConfig = BatchConfig(seconds=200.0, max_crop_s=None, min_s=0.1)
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(lr=5e-5, eps=1e-8, weight_decay=0.0, schedule="tri_stage", warmup=0.1, hold=0.4)
    train: TrainConfig = TrainConfig(steps=20_000)
    seed: int = 0


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune, or continue to, and return the folder of the last checkpoint."""
    ranks = start_ranks()
    with hold_run_folder(config.out, config, ranks):
        task = finetuning_task(config)
        if ranks.is_first:
            describe_model(config.out, task.description)
        return train(task, out=config.out, seed=config.seed, optim=config.optim, config=config.train, ranks=ranks)


def finetuning_task(config: FinetuneConfig) -> Task:
    """Prepare model and data."""
    manifest = read_data(config.data)
    texts = _texts(manifest)
    vocabulary = Vocabulary.from_texts(texts.values())
    start = SavedModel.read(config.checkpoint)
    data = like_training(config.data, start.description.audio, where=start.name)
    torch.manual_seed(config.seed)
    encoder = _build_encoder(config, start)
    tokens = {key: vocabulary.encode(text, where=key) for key, text in texts.items()}
    manifest = _with_enough_frames(
        manifest, tokens, encoder.config, config.too_short, fastest=max(config.augment.speeds, default=1.0)
    )
    dataset = _dataset(manifest, data, encoder.config, tokens, augment=config.augment, seed=config.seed)
    sampler = BatchSampler(manifest.utterances, config.batch, seed=config.seed, speeds=dataset.speeds)
    tell_left_out(sampler.left_out, f"shorter than batch.min_s={config.batch.min_s}")
    evaluate = None
    if config.dev is not None:
        dev = read_data(config.dev)
        dev_data = like_training(config.dev, start.description.audio, where=start.name)
        evaluate = partial(_evaluate, _texts(dev), _dataset(dev, dev_data, encoder.config), vocabulary)
    return Task(
        title="finetune from random weights" if config.random_weights else "finetune",
        model=CTCModel(encoder, config.ctc, len(vocabulary)),
        description=Description(
            encoder=encoder.config,
            ctc=config.ctc,
            vocabulary=vocabulary.tokens,
            audio=data.audio,
            family=None if config.random_weights else start.description.pretrained_by,
        ),
        dataset=dataset,
        sampler=sampler,
        data=data,
        evaluate=evaluate,
    )


@torch.no_grad()
def transcribe_manifest(
    model: CTCModel,
    vocabulary: Vocabulary,
    dataset: SpeechDataset,
    *,
    seconds: float = 120.0,
    skipped: list[str] | None = None,
) -> dict[str, str]:
    """Return the greedy text of every utterance by id.

    Args:
        model: in evaluation mode.
        vocabulary: of the model.
        dataset: of the utterances.
        seconds: of audio in a batch, padding counted.
        skipped: gets the reasons why utterances were left out, where the dataset allows that.
    """
    device = next(model.parameters()).device
    texts: dict[str, str] = {}
    for batch in load_in_order(dataset, seconds=seconds):
        if skipped is not None:
            skipped.extend(batch.skipped)
        if not batch.ids:
            continue
        logits, counts = model.logits(batch.to(device))
        decoded = greedy_decode(logits, counts)
        texts |= {key: vocabulary.decode(ids) for key, ids in zip(batch.ids, decoded, strict=True)}
    return texts


def _build_encoder(config: FinetuneConfig, start: SavedModel) -> SpeechEncoder:
    encoder = SpeechEncoder(finetuned_encoder(start.description.encoder, config))
    if not config.random_weights:
        fill(encoder, start.tensors, prefix="encoder.", where=start.name)
    return encoder


def finetuned_encoder(pretraining: EncoderConfig, config: FinetuneConfig) -> EncoderConfig:
    """Return the trunk that fine-tuning builds: the pretrained one with the dropouts of `config`."""
    transformer = dataclasses.replace(
        pretraining.transformer,
        dropout=pretraining.transformer.dropout if config.dropout is None else config.dropout,
        layer_drop=pretraining.transformer.layer_drop if config.layer_drop is None else config.layer_drop,
    )
    return dataclasses.replace(pretraining, transformer=transformer, conv_grad_scale=1.0)


def _texts(manifest: Manifest) -> dict[str, str]:
    missing = [row.id for row in manifest.utterances if not row.text]
    if missing:
        raise ManifestError(
            f"{len(missing)} utterances have no text: {', '.join(missing[:3])}; fill the manifest's text column"
        )
    return {row.id: row.text or "" for row in manifest.utterances}


def _with_enough_frames(
    manifest: Manifest,
    tokens: dict[str, list[int]],
    encoder: EncoderConfig,
    too_short: Literal["stop", "skip"],
    *,
    fastest: float = 1.0,
) -> Manifest:
    """Refuse, or leave out, utterances whose text needs more frames than their audio makes."""
    short: dict[str, str] = {}  # reason by id
    for row in manifest.utterances:
        ids = tokens[row.id]
        required = len(ids) + sum(left == right for left, right in pairwise(ids))
        frames = max(0, (int(row.num_samples_16k / fastest) - encoder.window) // encoder.hop + 1)
        if frames < required:
            short[row.id] = f"{row.id} (text needs {required} frames, audio makes {frames})"
    if short and too_short == "stop":
        raise VocabularyError(
            f"{len(short)} utterances are too short for their text: {', '.join([*short.values()][:3])}; "
            "correct the transcripts, or set too_short=skip to leave them out"
        )
    tell_left_out([*short.values()], "too short for its text")
    return dataclasses.replace(manifest, utterances=tuple(row for row in manifest.utterances if row.id not in short))


def _dataset(
    manifest: Manifest,
    data: DataConfig,
    encoder: EncoderConfig,
    tokens: dict[str, list[int]] | None = None,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
) -> SpeechDataset:
    return SpeechDataset(
        manifest,
        data.audio,
        hop=encoder.hop,
        window=encoder.window,
        tokens=tokens,
        skip_bad_audio=data.bad_audio == "skip",
        speeds=None if augment is None else augment.speeds_of(len(manifest.utterances), seed=seed),
        augment=None if augment is None else augment.augmenter(data.audio, seed=seed),
    )


def _evaluate(
    texts: dict[str, str], dataset: SpeechDataset, vocabulary: Vocabulary, model: nn.Module
) -> dict[str, float]:
    assert isinstance(model, CTCModel)
    skipped: list[str] = []
    hypotheses = transcribe_manifest(model, vocabulary, dataset, skipped=skipped)
    scores = score_texts({key: texts[key] for key in hypotheses}, hypotheses)
    return {"dev_cer": scores.cer, "dev_wer": scores.wer, "dev_skipped": len(skipped)}
