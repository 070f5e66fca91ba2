"""Failing fine-tuning runs, each caught within a stated number of steps, and healthy runs that raise no alarm.

A tiny model is trained on tones.
"""

import dataclasses
import math
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor

from speechssl.asr.decoding.hypothesis import greedy_decode
from speechssl.asr.scoring.wer import score_texts
from speechssl.data.batching import Batch, Example, collate
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.masking import MaskConfig
from speechssl.parallel import Ranks
from speechssl.stages.dev_scores import texts_of_others
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.train.checkpoint import TrainState
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.meter import Meter
from speechssl.train.monitor import HealthConfig, Monitor
from speechssl.train.optim import OptimConfig, build_optimizer

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
ENCODER = EncoderConfig(conv=((16, 10, 5), (24, 4, 4), (24, 4, 4)), conv_grad_scale=1.0, feature_dropout=0.0)
SYMBOLS, REPORT, GRACE, STEPS = 6, 5, 30, 400
NO_MASK = MaskConfig(start_prob=0.0, min_spans=0)
Alarms = list[tuple[int, str]]


def spoken(seed: int, *, rate: float = 1.0, texts_of: int | None = None) -> Batch:
    """Make six rows of tones, two frames per symbol; `rate` plays them faster, `texts_of` gives other texts."""
    frames, hop = 50, ENCODER.hop
    size = (frames - 1) * hop + ENCODER.window
    symbols = drawn(seed)
    frequency = rate * 400.0 * 1.5 ** symbols.repeat_interleave(2 * hop, 1)  # (6, time)
    waves = torch.sin(2 * math.pi * (frequency / 16_000).cumsum(1))[:, :size]
    noisy = waves + 0.02 * torch.randn(waves.shape, generator=torch.Generator().manual_seed(seed))
    texts = symbols if texts_of is None else drawn(texts_of)
    rows = zip(noisy, texts[:, : frames // 2], strict=True)
    return collate([Example(id=str(i), waveform=wave, tokens=text + 1) for i, (wave, text) in enumerate(rows)])


def drawn(seed: int) -> Tensor:
    """Draw (6, symbols) without equal neighbours."""
    leaps = torch.randint(1, SYMBOLS, (6, 26), generator=torch.Generator().manual_seed(seed))
    return leaps.cumsum(1) % SYMBOLS


def evaluate(model: CTCModel, batch: Batch) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        heard = greedy_decode(*model.logits(batch))
    said = {key: "".join(map(str, row.tolist())) for key, row in zip(batch.ids, batch.targets, strict=True)}
    written = {key: "".join(map(str, ids)) for key, ids in zip(batch.ids, heard, strict=True)}
    others = score_texts(texts_of_others(said), written)
    return {"dev_cer": score_texts(said, written).cer, "dev_others": others.cer}


def run(
    make: Callable[[int], Batch] = spoken,
    *,
    dev: Callable[[int], Batch] = spoken,
    lr: float = 3e-3,
    freeze: int = 0,
    seed: int = 0,
    steps: int = 160,
) -> Alarms:
    """Train for a part of `STEPS` steps and return step and name of each alarm."""
    transformer = dataclasses.replace(
        EncoderConfig.small().transformer,
        dim=48, num_layers=2, ffn_dim=96, position_kernel=8, position_groups=4, dropout=0.0, layer_drop=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    encoder = SpeechEncoder(dataclasses.replace(ENCODER, transformer=transformer))
    config = CTCConfig(freeze_conv=False, freeze_steps=freeze, mask=NO_MASK, channel_mask=NO_MASK)
    model = CTCModel(encoder, config, SYMBOLS + 1)
    optim = OptimConfig(lr=lr, warmup=0.05, max_grad_norm=1.0)
    training = TrainConfig(steps=STEPS, log_every=REPORT, stop_after_skipped=STEPS)
    learner = Learner(model, build_optimizer(model, optim), seed=seed, optim=optim, config=training, ranks=ALONE)
    monitor, meter, state = Monitor(HealthConfig(grace_steps=GRACE), model.health()), Meter(ALONE), TrainState()
    batches = ((0, turn, batch) for turn, batch in enumerate(cycle([make(i) for i in range(8)]), start=1))
    found: Alarms = []
    while state.step < steps:
        update = learner.update(batches, state, say=print)
        if update.is_finite:
            meter.add(update.totals, update.counts, update.tallies)
        else:
            state.skipped_steps += 1
        if state.step % REPORT == 0:
            values = meter.report() | {"skipped_steps": state.skipped_steps}
            found += [(alarm.step, alarm.name) for alarm in monitor.check(state.step, STEPS, values)]
            scores = evaluate(model, dev(100))
            found += [(alarm.step, alarm.name) for alarm in monitor.check(state.step, STEPS, scores)]
    return found


def first(alarms: Alarms, names: set[str]) -> float:
    """Return the step of the first alarm with the right cause; infinity without one."""
    return min((step for step, name in alarms if name in names), default=math.inf)


SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_run_raises_no_alarm_though_it_passes_through_blanks(seed: int) -> None:
    assert run(seed=seed, steps=50) == []


@pytest.mark.parametrize("lr", [0.3, 1.0])
def test_too_high_a_learning_rate_is_caught_ten_steps_after_the_grace(lr: float) -> None:
    found = run(lr=lr, steps=GRACE + 10)
    assert first(found, {"all_blank", "empty_transcripts", "nothing_read", "lost_ground"}) <= GRACE + 10


def test_texts_that_do_not_belong_to_their_audio_are_caught_twenty_steps_after_the_grace() -> None:
    """There is no alarm either if few letters are recognised: the error rate here is 0.6."""
    found = run(lambda seed: spoken(seed, texts_of=1000 + seed), steps=GRACE + 20)
    assert first(found, {"nothing_read", "all_blank"}) <= GRACE + 20


def test_audio_of_another_rate_in_the_development_set_is_caught_ten_steps_after_the_grace() -> None:
    found = run(dev=lambda seed: spoken(seed, rate=2.0), steps=GRACE + 10)
    assert first(found, {"nothing_read"}) == GRACE + 10


def test_a_loss_that_is_not_finite_is_named_at_the_second_report() -> None:
    def broken(seed: int) -> Batch:
        batch = spoken(seed)
        return dataclasses.replace(batch, waveforms=batch.waveforms * (math.nan if seed == 3 else 1.0))

    assert first(run(broken, steps=2 * REPORT), {"not_finite"}) == 2 * REPORT
