"""Provoked collapses, each caught within a stated number of steps, and healthy runs that raise no alarm.

The fast tests train a tiny model on tones for a few CPU seconds; the slow ones train the small model of
recipes/demo on real speech: set SPEECHSSL_SPEECH to a folder with `pool.tsv` (as `speechssl corpus festvox-ru` writes).
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.config import load
from speechssl.data.batching import Batch, BatchSampler, Example, collate
from speechssl.data.dataset import SpeechDataset
from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.data.loading import load_batches
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.masking import MaskConfig
from speechssl.parallel import Ranks
from speechssl.stages.pretrain import PretrainConfig
from speechssl.tasks import contrastive
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ema import EmaConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.registry import build_objective
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.checkpoint import TrainState
from speechssl.train.gradients import gradient_norms
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.meter import Meter
from speechssl.train.monitor import HealthConfig, Monitor
from speechssl.train.optim import OptimConfig, build_optimizer
from speechssl.units.kmeans import KMeans
from speechssl.units.mfcc import mfcc

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
RECIPES = Path(__file__).parents[2] / "recipes/demo"
Alarms = list[tuple[int, str]]


def watch(
    model: PretrainModel,
    batches: Iterator[Batch],
    *,
    steps: int,
    of: int,
    report: int,
    grace: int,
    optim: OptimConfig,
    seed: int = 0,
) -> Alarms:
    """Train for `steps` of a run of `of` steps with a report every `report` steps; return (step, alarm) pairs."""
    config = TrainConfig(steps=of, log_every=report, stop_after_skipped=of)
    learner = Learner(model, build_optimizer(model, optim), seed=seed, optim=optim, config=config, ranks=ALONE)
    monitor, meter, state = Monitor(HealthConfig(grace_steps=grace), model.health()), Meter(ALONE), TrainState()
    numbered = ((0, position, batch) for position, batch in enumerate(batches, start=1))
    found: Alarms = []
    while state.step < steps:
        update = learner.update(numbered, state, say=print, watch=lambda: gradient_norms(model))
        if update.is_finite:
            meter.add(update.totals, update.counts, update.tallies)
        if state.step % report == 0:
            found += [(alarm.step, alarm.name) for alarm in monitor.check(state.step, of, meter.report())]
    return found


def first(alarms: Alarms, names: set[str]) -> float:
    """Return the step of the first alarm with the right cause; infinity without one."""
    return min((step for step, name in alarms if name in names), default=math.inf)


# ---------------------------------------------------------------------------------------------- tiny, on tones

ENCODER = EncoderConfig(conv=((16, 10, 5), (24, 4, 4), (24, 4, 4)), conv_grad_scale=1.0, feature_dropout=0.0)
TINY_STEPS, TINY_REPORT, TINY_GRACE = 100, 5, 50
SYMBOLS = 6


def tones(seed: int) -> tuple[Tensor, Tensor]:
    """Make six rows of tones, each one or two above the last: (6, time) waveforms and (6, frames) which tone."""
    random = torch.Generator().manual_seed(seed)
    frames, hop = 50, ENCODER.hop
    leaps = torch.randint(1, 3, (6, frames // 2 + 1), generator=random)
    symbols = (leaps.cumsum(1) % SYMBOLS).repeat_interleave(2, 1)  # each lasts two frames
    frequency = 400.0 * 1.5 ** symbols.repeat_interleave(hop, 1)  # (6, time)
    waves = torch.sin(2 * math.pi * (frequency / 16_000).cumsum(1))
    size = (frames - 1) * hop + ENCODER.window
    return waves[:, :size] + 0.02 * torch.randn(6, size, generator=random), symbols[:, :frames]


def tiny_batches(*, labels: Callable[[Tensor], Tensor] | None, sound: Callable[[Tensor], Tensor]) -> Iterator[Batch]:
    made = [tones(seed) for seed in range(6)]
    for waves, symbols in cycle(made):
        yield collate(
            [
                Example(id=str(i), waveform=wave, labels=None if labels is None else labels(row)[None])
                for i, (wave, row) in enumerate(zip(sound(waves), symbols, strict=True))
            ]
        )


def tiny_model(config: ContrastiveConfig | MaskedPredictionConfig | TeacherConfig, seed: int) -> PretrainModel:
    transformer = dataclasses.replace(
        EncoderConfig.small().transformer, dim=48, num_layers=2, ffn_dim=96, position_kernel=8, position_groups=4
    )
    encoder = dataclasses.replace(ENCODER, transformer=transformer)
    clusters = (SYMBOLS,) if isinstance(config, MaskedPredictionConfig) else ()
    torch.manual_seed(seed)
    return PretrainModel(SpeechEncoder(encoder), build_objective(config, dim=48, conv_dim=24, clusters=clusters))


MASK = MaskConfig(start_prob=0.1, span=3)
CONTRASTIVE = ContrastiveConfig(
    dim=24,
    negatives=30,
    feature_penalty=1.0,
    feature_dropout=0.0,
    quantizer=QuantizerConfig(groups=2, entries=8, dim=24, decay=0.99),
    mask=MASK,
)
TEACHER = TeacherConfig(layers=2, ema=EmaConfig(start=0.9, end=0.99, steps=100), mask=MASK)
CODEBOOKS = dataclasses.replace(TEACHER, form="codebooks", codebooks=OnlineCodebookConfig(entries=12))
UNITS = MaskedPredictionConfig(dim=24, unmasked_weight=1.0, feature_penalty=0.0, mask=MASK)


def run_tiny(
    config: ContrastiveConfig | MaskedPredictionConfig | TeacherConfig,
    *,
    lr: float = 2e-3,
    seed: int = 0,
    steps: int = TINY_STEPS,
    labels: Callable[[Tensor], Tensor] = lambda symbols: symbols,
    sound: Callable[[Tensor], Tensor] = lambda waves: waves,
) -> Alarms:
    takes_labels = isinstance(config, MaskedPredictionConfig)
    return watch(
        tiny_model(config, seed),
        tiny_batches(labels=labels if takes_labels else None, sound=sound),
        steps=steps,
        of=400,
        report=TINY_REPORT,
        grace=TINY_GRACE,
        optim=OptimConfig(lr=lr, max_grad_norm=1.0),
        seed=seed,
    )


def equal_negatives(utterance: Tensor, own: int, cross: int, generator: torch.Generator, **like: object) -> Tensor:
    """Return every frame the first masked frame of its utterance as each negative, that one the next."""
    start = torch.searchsorted(utterance, utterance)
    place = torch.arange(len(utterance))
    other = torch.where(place == start, (start + 1).clamp(max=len(utterance) - 1), start)
    return other[:, None].expand(-1, own + cross)


def dither() -> Callable[[Tensor], Tensor]:
    """Return near-silence for any recording: the noise of a converter, never the same."""
    random = torch.Generator().manual_seed(0)
    return lambda waves: 1e-4 * torch.randn(waves.shape, generator=random)


TOO_HOT = {"flat_features", "same_features", "codebook_collapse", "lost_ground"}
UNTEACHABLE = {"no_learning", "same_features"}
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


METHODS = pytest.mark.parametrize(
    "config", [CONTRASTIVE, UNITS, TEACHER, CODEBOOKS], ids=["contrastive", "masked_prediction", "teacher", "codebooks"]
)


@pytest.mark.parametrize("seed", SEEDS)
@METHODS
def test_a_healthy_run_raises_no_alarm(config, seed: int) -> None:
    assert run_tiny(config, seed=seed, steps=80) == []


@METHODS
def test_too_high_a_learning_rate_is_caught_within_25_steps(config) -> None:
    assert first(run_tiny(config, lr=0.3, steps=25), TOO_HOT) <= 25


def test_one_label_for_everything_is_caught_within_10_steps() -> None:
    assert first(run_tiny(UNITS, labels=torch.zeros_like, steps=10), {"one_label"}) == 10


def test_negatives_that_are_all_equal_are_caught_within_10_steps(monkeypatch) -> None:
    monkeypatch.setattr(contrastive, "draw_negatives", equal_negatives)
    assert first(run_tiny(CONTRASTIVE, steps=10), {"equal_negatives"}) == 10


@METHODS
def test_near_silence_is_caught_ten_steps_after_the_grace(config) -> None:
    """Files of zeros are refused; near-silence with the noise of a converter is read, and nothing can be learnt."""
    assert first(run_tiny(config, sound=dither(), steps=TINY_GRACE + 10), UNTEACHABLE) <= TINY_GRACE + 10


# ------------------------------------------------------------------------------------------ small, on real speech

SPEECH = Path(os.environ.get("SPEECHSSL_SPEECH", "runs/demo/festvox-ru"))
GRACE = 100


@pytest.fixture(scope="module")
def speech() -> Manifest:
    """Return the pool of a prepared corpus."""
    if not (SPEECH / "pool.tsv").exists():
        pytest.skip(f"{SPEECH}/pool.tsv is not there: `speechssl corpus festvox-ru --out {SPEECH}` fetches it")
    return read_manifest(SPEECH / "pool.tsv")


@pytest.fixture(scope="module")
def units(speech: Manifest) -> FrameLabels:
    """Return the labels of recipes/demo, of 100 clusters of MFCC, fitted on every fifth utterance."""
    features = {
        row.id: mfcc(read_audio(speech.audio_path(row), AudioConfig(normalize=False))) for row in speech.utterances
    }
    kmeans = KMeans(n_clusters=100, max_iter=20).fit(torch.cat([*features.values()][::5]))
    source = LabelSource(clusters=100, hop=160, window=400, features="mfcc", kmeans=kmeans.fingerprint)
    return FrameLabels(
        source=source, units={key: kmeans.predict(value).numpy().astype("int16") for key, value in features.items()}
    )


@pytest.fixture
def run_small(speech: Manifest, request: pytest.FixtureRequest) -> Callable[..., Alarms]:
    """Return a function that trains the small model by a recipe of recipes/demo."""

    def run(
        recipe: str,
        *overrides: str,
        steps: int,
        seed: int = 0,
        one_label: bool = False,
        sound: Callable[[Tensor], Tensor] = lambda waves: waves,
    ) -> Alarms:
        config = load(RECIPES / f"{recipe}.yaml", PretrainConfig, overrides)
        assert config.encoder is not None
        labels = [request.getfixturevalue("units")] if recipe == "hubert" else []
        if one_label:
            labels = [
                dataclasses.replace(row, units={key: 0 * value for key, value in row.units.items()}) for row in labels
            ]
        encoder = config.encoder
        dataset = SpeechDataset(speech, config.data.audio, hop=encoder.hop, window=encoder.window, labels=labels)
        sampler = BatchSampler(speech.utterances, config.batch, seed=seed, hop=encoder.hop)
        torch.manual_seed(seed)
        objective = build_objective(
            config.objective,
            dim=encoder.transformer.dim,
            conv_dim=encoder.conv[-1][0],
            clusters=tuple(row.source.clusters for row in labels),
        )
        loaded = load_batches(dataset, sampler, epoch=0, position=0, workers=0)
        return watch(
            PretrainModel(SpeechEncoder(encoder), objective),
            (dataclasses.replace(batch, waveforms=sound(batch.waveforms)) for _, _, batch in loaded),
            steps=steps,
            of=config.train.steps,
            report=10,
            grace=GRACE,
            optim=config.optim,
            seed=seed,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("recipe", ["wav2vec2", "hubert"])
def test_a_healthy_run_on_real_speech_raises_no_alarm(run_small, recipe: str, seed: int) -> None:
    assert run_small(recipe, steps=300, seed=seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["wav2vec2", "hubert"])
def test_on_real_speech_too_high_a_learning_rate_is_caught_within_60_steps(run_small, recipe: str) -> None:
    assert first(run_small(recipe, "optim.lr=0.1", steps=60), TOO_HOT) <= 60


@pytest.mark.slow
def test_on_real_speech_a_run_without_diversity_loss_is_caught_within_300_steps(run_small) -> None:
    found = run_small("wav2vec2", "objective.diversity_weight=0", steps=300)  # which sign is first is rounding's choice
    assert first(found, {"codebook_collapse", "same_features", "flat_features"}) <= 300


@pytest.mark.slow
def test_on_real_speech_one_label_for_everything_is_caught_within_20_steps(run_small) -> None:
    assert first(run_small("hubert", steps=20, one_label=True), {"one_label"}) == 20


@pytest.mark.slow
def test_on_real_speech_equal_negatives_are_caught_within_20_steps(run_small, monkeypatch) -> None:
    monkeypatch.setattr(contrastive, "draw_negatives", equal_negatives)
    assert first(run_small("wav2vec2", steps=20), {"equal_negatives"}) == 20


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["wav2vec2", "hubert"])
def test_near_silence_of_the_lengths_of_speech_is_caught_20_steps_after_the_grace(run_small, recipe: str) -> None:
    assert first(run_small(recipe, steps=GRACE + 20, sound=dither()), UNTEACHABLE) <= GRACE + 20
