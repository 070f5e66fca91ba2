"""Stage `finetune`: pretrained trunk + transcripts -> CTC model, watched by CER on a development set."""

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Literal, Protocol

import torch

from speechssl.config import added, configuration, like, was
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError, ManifestError, SpeechSSLError
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import Description, SavedModel, describe_model
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.parallel import start_ranks
from speechssl.stages.augmentation import PseudoConfig, augmenter_of, span_of_speeds, speeds_of
from speechssl.stages.average import average_best
from speechssl.stages.dev_scores import DevSet
from speechssl.stages.loss_weights import loss_weights
from speechssl.stages.preflight import Preflight, Rules, preflight
from speechssl.stages.preflight_advice import about_freezing
from speechssl.stages.preflight_audio import Reading, look_at_audio
from speechssl.stages.preflight_text import short_lines, tell_skipped
from speechssl.stages.reading_data import DataConfig, like_training, read_data, tell_left_out
from speechssl.stages.training import Prepared, train
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Letters, UnitsConfig
from speechssl.train.checkpoint import fill, is_finished
from speechssl.train.groups import describe_learning
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig
from speechssl.train.run_folder import hold_run_folder
from speechssl.train.runlog import require_reports

__all__ = [
    "DropoutConfig",
    "FinetuneConfig",
    "check_texts",
    "finetune",
    "finetuned_encoder",
    "prepare_finetuning",
    "starting_encoder",
]


def starting_encoder(
    start: SavedModel, config: EncoderConfig, *, reset_layers: int = 0, random_weights: bool = False
) -> SpeechEncoder:
    """Build a trunk; its random weights are drawn from torch's default generator.

    Args:
        start: the pretrained model.
        config: configuration of the trunk, with the architecture of `start`.
        reset_layers: number of Transformer layers, counted from the last, that keep their random weights. The last
            layers are the most specialised in the pretraining task, and with few labels a fresh start may serve them
            better (Zhang et al., "Revisiting few-sample BERT fine-tuning", arXiv:2006.05987).
        random_weights: keep the random weights everywhere.

    Raises:
        ConfigError: `reset_layers` exceeds the number of layers.
        CheckpointError: the parameters of `start` do not fit.
    """
    encoder = SpeechEncoder(config)
    layers = encoder.transformer.layers
    if reset_layers > len(layers):
        raise ConfigError(f"reset_layers is {reset_layers}, expected at most {len(layers)}, all layers of {start.name}")
    if random_weights:
        return encoder
    fresh = [copy.deepcopy(layer.state_dict()) for layer in layers[len(layers) - reset_layers :]]
    fill(encoder, start.tensors, prefix="encoder.", where=start.name)
    for layer, weights in zip(layers[len(layers) - reset_layers :], fresh, strict=True):
        layer.load_state_dict(weights)
    return encoder


class DropoutConfig(Protocol):
    """The keys of a recipe that set an encoder's dropouts; None keeps the value of pretraining."""

    @property
    def dropout(self) -> float | None:
        """In the Transformer."""

    @property
    def attention_dropout(self) -> float | None:
        """Of attention weights."""

    @property
    def activation_dropout(self) -> float | None:
        """Inside the feed-forward layers."""

    @property
    def feature_dropout(self) -> float | None:
        """Of the projected features."""

    @property
    def layer_drop(self) -> float | None:
        """Chance that a layer is left out."""


@configuration
class FinetuneConfig:
    """A CTC fine-tuning run; the defaults are those of wav2vec 2.0 for 10 hours (base_10h.yaml), on one GPU."""

    out: Path
    checkpoint: Path  # folder of a run, or of a converted model
    random_weights: bool = False  # control experiment: the architecture of the checkpoint without its weights
    data: DataConfig
    dev: DataConfig | None = like("data", "audio")  # selects the best step; without it the last one counts
    text: TextConfig = TextConfig()  # normalisation of all texts
    units: UnitsConfig = Letters()
    bad_text: Literal["stop", "skip"] = was("unfit", "stop")  # empty texts, refused digits, words without phones
    bad_length: Literal["stop", "skip"] = was("too_short", "stop")  # fewer frames than the text needs
    ctc: CTCConfig = CTCConfig()
    reset_layers: int = 0  # number of Transformer layers, counted from the last, that start from random weights
    dropout: float | None = 0.0  # dropout in the Transformer; None keeps the value of pretraining, here and below
    attention_dropout: float | None = 0.0
    activation_dropout: float | None = 0.1
    feature_dropout: float | None = 0.0  # dropout on the projected features (fairseq: dropout_input)
    layer_drop: float | None = 0.05
    weights: Path | None = added(None)  # table of id and weight: factor of each utterance's loss, scaled to the mean 1
    batch: BatchConfig = BatchConfig(seconds=200.0, max_crop_s=None, min_s=0.1)
    augment: AugmentConfig = AugmentConfig()
    pseudo: PseudoConfig | None = added(None)  # part of the data that is augmented otherwise
    optim: OptimConfig = OptimConfig(lr=5e-5, eps=1e-8, weight_decay=0.0, schedule="tri_stage", warmup=0.1, hold=0.4)
    train: TrainConfig = TrainConfig(steps=20_000)
    average: int = 0  # number of best checkpoints whose mean goes to out/average at the end of the run; 0: none
    seed: int = 0

    def __post_init__(self) -> None:
        if self.average < 0 or self.reset_layers < 0:
            raise ConfigError(
                f"average and reset_layers must not be negative, found {self.average} and {self.reset_layers}"
            )
        if self.average > self.train.keep_best or (self.average and self.dev is None):
            raise ConfigError(
                f"average={self.average} takes that many checkpoints with the best dev scores: give dev data, and "
                f"train.keep_best={self.average}, found {self.train.keep_best}"
            )


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune, resuming if the run has begun, and return the folder of the last checkpoint."""
    require_reports(config.train.log)
    ranks = start_ranks()
    with hold_run_folder(config.out, config, ranks):
        prepared = prepare_finetuning(config, say=ranks.is_first, look=ranks.is_first and not is_finished(config.out))
        if ranks.is_first:
            describe_model(config.out, prepared.description)
            rates = (config.optim.layer_decay, config.optim.encoder_rate)
            print(*describe_learning(prepared.model, *rates), sep="\n", file=sys.stderr)
        last = train(prepared, out=config.out, seed=config.seed, optim=config.optim, config=config.train, ranks=ranks)
        if config.average and ranks.is_first and isinstance(prepared.evaluate, DevSet):
            table = config.out / "average/dev.tsv"
            average_best(
                config.out, config.average, dataclasses.replace(prepared.evaluate, table=table), device=ranks.device
            )
        return last


def prepare_finetuning(config: FinetuneConfig, *, say: bool = False, look: bool = False) -> Prepared:
    """Prepare model and data; `say` prints notes on the texts, `look` checks the audio files before any is read."""
    start = read_saved(config.checkpoint)
    manifest, dev = _read(config)
    found = _look(config, manifest, dev, start, audio=look)
    if say:
        print(*short_lines(found), sep="\n", file=sys.stderr)
    vocabulary = found.refuse()
    data = like_training(config.data, start.description.audio, where=start.name)
    torch.manual_seed(config.seed)
    encoder = starting_encoder(
        start,
        finetuned_encoder(start.description.encoder, config),
        reset_layers=config.reset_layers,
        random_weights=config.random_weights,
    )
    tell_skipped(found)
    manifest = found.usable(manifest)
    speeds = speeds_of(config.augment, config.pseudo, manifest.utterances, seed=config.seed)
    sampler = BatchSampler(manifest.utterances, config.batch, seed=config.seed, speeds=speeds)
    dataset = SpeechDataset(
        manifest,
        data.audio,
        hop=encoder.config.hop,
        window=encoder.config.window,
        tokens=found.tokens,
        weights=None if config.weights is None else loss_weights(config.weights, manifest.utterances, sampler),
        skip_bad=data.bad_audio == "skip",
        speeds=speeds,
        augment=augmenter_of(config.augment, config.pseudo, manifest.utterances, data.audio, seed=config.seed),
        settings="data.audio.",
    )
    tell_left_out(sampler.left_out, f"shorter than batch.min_s={config.batch.min_s}")
    evaluate = None
    if config.dev is not None and dev is not None:
        dev = found.usable(dev, "dev")
        dev_data = like_training(config.dev, start.description.audio, where=start.name, section="dev")
        evaluate = DevSet(
            texts={row.id: row.text or "" for row in dev.utterances},
            dataset=SpeechDataset(
                dev,
                dev_data.audio,
                hop=encoder.config.hop,
                window=encoder.config.window,
                skip_bad=dev_data.bad_audio == "skip",
                settings="dev.audio.",
            ),
            vocabulary=vocabulary,
            table=config.out / "dev.tsv",
        )
    return Prepared(
        title="finetune from random weights" if config.random_weights else "finetune",
        model=CTCModel(encoder, config.ctc, len(vocabulary)),
        description=Description.of_recogniser(
            encoder.config,
            config.ctc,
            vocabulary,
            audio=data.audio,
            family=None if config.random_weights else start.description.pretrained_by,
        ),
        dataset=dataset,
        sampler=sampler,
        data=data,
        evaluate=evaluate,
    )


def check_texts(config: FinetuneConfig) -> Preflight:
    """Check the texts of a recipe, and that batches can be formed, as a run does before its first step.

    Raises:
        SpeechSSLError: data or checkpoint of the recipe cannot be read.
    """
    manifest, dev = _read(config)
    start = read_saved(config.checkpoint)
    found = _look(config, manifest, dev, start, audio=True)
    rows = found.usable(manifest).utterances
    try:
        if not found.errors:
            speeds = speeds_of(config.augment, config.pseudo, rows, seed=config.seed)
            BatchSampler(rows, config.batch, seed=config.seed, speeds=speeds)
    except (ConfigError, ManifestError) as error:
        found = dataclasses.replace(found, errors=(*found.errors, error))
    return found


def _read(config: FinetuneConfig) -> tuple[Manifest, Manifest | None]:
    """Return the manifests of the training set and of the dev set."""
    return read_data(config.data), read_data(config.dev, section="dev") if config.dev else None


def _look(
    config: FinetuneConfig, manifest: Manifest, dev: Manifest | None, start: SavedModel, *, audio: bool
) -> Preflight:
    """Check texts, tokens and lengths, and what is known about the audio before it is read."""
    encoder = finetuned_encoder(start.description.encoder, config)
    rules = Rules(
        units=config.units,
        text=config.text,
        bad_text=config.bad_text,
        bad_length=config.bad_length,
        hop=encoder.hop,
        window=encoder.window,
        fastest=span_of_speeds(config.augment, config.pseudo)[1],
        out=config.out,
    )
    found = preflight(manifest, dev, rules)
    errors: list[SpeechSSLError] = []
    notes = [*about_freezing(config.ctc.freeze_steps, config.train.steps)]
    reads = [
        Reading(
            section="data",
            manifest=found.usable(manifest),
            data=config.data,
            window=encoder.window,
            min_s=config.batch.min_s,
            max_crop_s=config.batch.max_crop_s,
        )
    ]
    if dev is not None and config.dev is not None:
        dev = found.usable(dev, "dev")
        reads.append(Reading(section="dev", manifest=dev, data=config.dev, window=encoder.window))
    for read in reads:
        try:
            like_training(read.data, start.description.audio, where=start.name, section=read.section)
        except ConfigError as error:
            errors.append(error)
    if audio:
        faults, more = look_at_audio(reads)
        errors, notes = [*errors, *faults], [*notes, *more]
    return dataclasses.replace(found, notes=(*found.notes, *notes), errors=(*found.errors, *errors))


def finetuned_encoder(pretraining: EncoderConfig, config: DropoutConfig) -> EncoderConfig:
    """Return the encoder configuration for fine-tuning: the pretrained one with the dropouts of `config`."""
    before = pretraining.transformer
    transformer = dataclasses.replace(
        before,
        dropout=_or(config.dropout, before.dropout),
        attention_dropout=_or(config.attention_dropout, before.attention_dropout),
        activation_dropout=_or(config.activation_dropout, before.activation_dropout),
        layer_drop=_or(config.layer_drop, before.layer_drop),
    )
    feature_dropout = _or(config.feature_dropout, pretraining.feature_dropout)
    return dataclasses.replace(
        pretraining, transformer=transformer, conv_grad_scale=1.0, feature_dropout=feature_dropout
    )


def _or(probability: float | None, before: float) -> float:
    return before if probability is None else probability
