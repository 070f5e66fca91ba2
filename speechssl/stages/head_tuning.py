"""Training of encoders together with their heads, on waveforms, by the loop of pretraining and fine-tuning.

A head starts from the weights that it has on frozen features, with the same answers, scores and files. The checkpoints
of the loop lie in `training/` of the head's folder, and are removed once the best step is written as a head.
"""

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from speechssl.corpus.named import read_named
from speechssl.data.batching import BatchSampler
from speechssl.data.dataset import LabelStream, SpeechDataset, load_in_order
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import Description, SavedModel, checkpoint_of
from speechssl.parallel import Ranks
from speechssl.stages.finetune import finetuned_encoder, starting_encoder
from speechssl.stages.head_answers import Split
from speechssl.stages.head_encoder import with_random_weights, write_adapters, write_whole
from speechssl.stages.head_features import ProbedModel, SplitFrames
from speechssl.stages.head_folder import HeadDescription, write_head
from speechssl.stages.head_training import Answered, scorer_of
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.reading_data import like_training, read_waveforms, tell_left_out
from speechssl.stages.training import Prepared, train
from speechssl.tasks.head_model import HeadModel
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.heads import UNLABELLED, Head
from speechssl.train.checkpoint import fill, read_parameters, read_state
from speechssl.train.groups import describe_learning
from speechssl.train.runlog import require_reports

__all__ = ["FrameAnswers", "HeadDevSet", "head_model", "prepare_tuning", "split_frames", "tune_head"]

TRAINING = "training"


class _DatasetAnswers(TypedDict, total=False):
    labels: Sequence[LabelStream]
    tokens: Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class FrameAnswers:
    """Classes of frames, for a dataset."""

    classes: Mapping[str, Tensor]  # (frames,) int64 of each utterance

    def at_frames(self, utterance_id: str, *, start: int, num_frames: int, hop: int, window: int) -> Tensor:
        """Return the (num_frames,) int64 classes of the frames of a crop, which starts at a multiple of `hop`."""
        found = self.classes[utterance_id][start // hop :][:num_frames]
        return nn.functional.pad(found, (0, num_frames - len(found)), value=UNLABELLED)


@dataclass(frozen=True, kw_only=True)
class HeadDevSet:
    """Scorer of a `HeadModel` on the same utterances at each call."""

    head: Head
    examples: Answered
    dataset: SpeechDataset
    seconds: float  # seconds of audio in a batch, padding counted

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the scores; first, lower is better, the one that selects the best step."""
        assert isinstance(model, HeadModel)
        scores, first = self.scores(model), self.head.scores[0]
        selects = {"dev_error": 1 - scores[first]} if self.head.is_best == "highest" else {}
        return selects | {f"dev_{name}": score for name, score in scores.items()}

    @torch.no_grad()
    def scores(self, model: HeadModel) -> dict[str, float]:
        """Return all scores of a model in evaluation mode."""
        device = next(model.parameters()).device
        found: dict[str, Tensor] = {}
        for batch in load_in_order(self.dataset, seconds=self.seconds):
            outputs, is_valid = model.outputs(batch.to(device))
            predictions, counts = self.head.predictions(outputs.float()).cpu(), is_valid.sum(1).tolist()
            for key, each, count in zip(batch.ids, predictions, counts, strict=True):
                found[key] = each[:count] if self.head.answers == "frame_classes" else each
        return scorer_of(
            self.head.answers, self.examples, [found[row.id] for row in self.examples.features.rows]
        ).scores()


def split_frames(model: ProbedModel, whole: Split) -> tuple[SplitFrames, Split]:
    """Return the frames of a split as the encoder of a model will make them; bad audio that is skipped leaves it.

    Raises:
        ConfigError: the recipe normalises audio differently from the model's training.
    """
    start = read_saved(model.model)
    encoder, left_out = start.description.encoder, dict[str, str]()
    if whole.data.bad_audio == "skip":  # all is read once, so that all parts of the run agree on what is left
        audio = like_training(whole.data, start.description.audio, where=start.name).audio
        read = read_waveforms(
            whole.data,
            whole.manifest,
            whole.rows,
            audio=audio,
            window=encoder.window,
            title=f"{whole.name}: audio",
            left_out=left_out,
        )
        for _ in read:
            pass
    split = whole.only([row.id not in left_out for row in whole.rows], "bad audio")
    samples = [row.num_samples_16k for row in split.rows]
    frames = SplitFrames(
        rows=split.rows,
        layers=model.layers,
        dim=encoder.transformer.dim,
        hop=encoder.hop,
        window=encoder.window,
        counts=tuple(max(0, (each - encoder.window) // encoder.hop + 1) for each in samples),
    )
    return frames, split


def tune_head(
    config: ProbeConfig,
    model: ProbedModel,
    description: HeadDescription,
    splits: Mapping[str, Split],
    examples: Mapping[str, Answered],
    folder: Path,
    *,
    weights: Tensor | None,
    ranks: Ranks,
) -> None:
    """Train an encoder with its head, resuming if the run has begun, and write its best step; all ranks call it.

    Args:
        config: the recipe.
        model: the model to start from.
        description: the head, before its training.
        splits: utterances of each split.
        examples: their frames and answers.
        folder: folder of the head.
        weights: weights of classes in the loss.
        ranks: this process among the others.

    Raises:
        AudioError: audio cannot be used, and `bad_audio` says to stop.
        TrainingError: the loss is not finite, or too much audio is bad.
        StoppedError: a signal asked to stop.
    """
    require_reports(config.tuning.train.log)
    start = read_saved(model.model)
    start = start if model.random_weights is None else with_random_weights(start, model.random_weights)
    out = folder / TRAINING
    prepared = prepare_tuning(config, start, description, splits, examples, weights=weights)
    if ranks.is_first:
        rates = (config.tuning.optim.layer_decay, config.tuning.optim.encoder_rate)
        print(*describe_learning(prepared.model, *rates), sep="\n", file=sys.stderr)
    train(
        prepared,
        out=out,
        seed=description.seed,
        optim=config.tuning.optim,
        config=config.tuning.train,
        ranks=ranks,
    )
    if ranks.is_first:
        best = checkpoint_of(out)
        model_at_best = head_model(config, start, description, weights).to(ranks.device).eval()
        fill(model_at_best, read_parameters(best), where=str(best))
        dev = prepared.evaluate.scores(model_at_best) if isinstance(prepared.evaluate, HeadDevSet) else {}
        tensors = {name: each.detach().cpu().contiguous() for name, each in model_at_best.state_dict().items()}
        if description.lora is not None:
            tuned = write_adapters(folder, tensors)
        else:
            tuned = write_whole(folder, tensors, model_at_best.encoder.config, start)
        done = dataclasses.replace(description, step=read_state(best).step, dev=dev, tuned=tuned)
        write_head(folder, done, model_at_best.network)
        for checkpoint in out.glob("step_*"):
            shutil.rmtree(checkpoint)
    ranks.wait()


def prepare_tuning(
    config: ProbeConfig,
    start: SavedModel,
    description: HeadDescription,
    splits: Mapping[str, Split],
    examples: Mapping[str, Answered],
    *,
    weights: Tensor | None,
) -> Prepared:
    """Prepare model and data of a run; arguments as in `tune_head`."""
    tuning, head, train_split = config.tuning, head_of(config.task), splits["train"]
    tuned = head_model(config, start, description, weights)
    encoder = tuned.encoder.config
    data = like_training(train_split.data, start.description.audio, where=start.name)
    speeds = tuning.augment.speeds_of(len(train_split.rows), seed=description.seed)
    sampler = BatchSampler(train_split.rows, tuning.batch, seed=description.seed, hop=encoder.hop, speeds=speeds)
    tell_left_out(sampler.left_out, f"shorter than tuning.batch.min_s={tuning.batch.min_s}")
    dataset = SpeechDataset(
        dataclasses.replace(train_split.manifest, utterances=train_split.rows),
        data.audio,
        hop=encoder.hop,
        window=encoder.window,
        **_answers(head, examples["train"]),
        skip_bad=data.bad_audio == "skip",
        speeds=speeds,
        augment=tuning.augment.augmenter(data.audio, seed=description.seed, read=read_named),
        settings="data.audio.",
    )
    evaluate = None
    if "dev" in splits:
        dev = splits["dev"]
        evaluate = HeadDevSet(
            head=head,
            examples=examples["dev"],
            dataset=SpeechDataset(
                dataclasses.replace(dev.manifest, utterances=dev.rows),
                like_training(dev.data, start.description.audio, where=start.name, section="dev").audio,
                hop=encoder.hop,
                window=encoder.window,
                settings="dev.audio.",
            ),
            seconds=tuning.batch.seconds,
        )
    return Prepared(
        title=f"{head.title}: seed {description.seed}",
        model=tuned,
        description=Description(encoder=encoder, audio=data.audio, family=start.description.pretrained_by),
        dataset=dataset,
        sampler=sampler,
        data=data,
        evaluate=evaluate,
    )


def head_model(
    config: ProbeConfig, start: SavedModel, description: HeadDescription, weights: Tensor | None
) -> HeadModel:
    """Build a model with the initial weights of its seed; those of the head are the same as on frozen features."""
    tuning = config.tuning
    with torch.random.fork_rng():
        torch.manual_seed(description.seed)
        network = head_of(config.task).network(config.task, description.sizes)
        return HeadModel(
            starting_encoder(start, finetuned_encoder(start.description.encoder, tuning)),
            network,
            head_of(config.task),
            layers=description.layers,
            layer_norm=config.task.layer_norm,
            weights=weights,
            lora=description.lora,
            freeze_conv=tuning.freeze_conv,
            freeze_steps=tuning.freeze_steps,
        )


def _answers(head: Head, examples: Answered) -> _DatasetAnswers:
    """Return the arguments of a dataset that hold the answers of a training set."""
    by_id = {row.id: answer for row, answer in zip(examples.features.rows, examples.answers, strict=True)}
    if head.answers == "frame_classes":
        return {"labels": (FrameAnswers(classes=by_id),)}
    return {"tokens": {key: (answer.item(),) for key, answer in by_id.items()}}
