"""The training loop, on a toy whose gradient is known and on tiny models of every kind."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from speechssl.audio.reading import AudioConfig
from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Example, collate, seeded_generator
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.data.manifest import read_manifest
from speechssl.errors import TrainingError
from speechssl.model.context import StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.model.masking import MaskConfig, draw_spans
from speechssl.parallel import Ranks
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.registry import build_objective
from speechssl.text.vocabulary import Vocabulary
from speechssl.train import run as running
from speechssl.train.checkpoint import last_checkpoint, load_tensors, read_state
from speechssl.train.learner import TrainConfig
from speechssl.train.loop import fit
from speechssl.train.optim import OptimConfig
from speechssl.train.run import Run

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
CONSTANT = OptimConfig(lr=0.5, schedule="tri_stage", warmup=0.0, hold=1.0)
MASK = MaskConfig(start_prob=0.1, span=3)
TIMES = ("audio_s_per_s", "wall_s", "data_wait_s", "memory_gib")  # what may differ between two equal runs


def read_log(out: Path) -> dict[int, dict[str, float]]:
    """Return the reports by step; a step repeated after an interruption must have the same report."""
    reports: dict[int, dict[str, float]] = {}
    for line in (out / "log.jsonl").read_text().splitlines():
        report = {name: value for name, value in json.loads(line).items() if name not in TIMES}
        assert reports.get(report["step"], report) == report
        reports[report["step"]] = report
    return reports


class Toy(nn.Module):
    """A loss whose value is the sum over samples of (weight x sample - 1) squared, and its count their number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25, dtype=torch.float64))

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        samples = torch.cat([row[:n] for row, n in zip(batch.waveforms, batch.num_samples, strict=True)]).double()
        value = (self.weight * samples - 1).square().sum()
        return LossSum(value=value, count=batch.num_samples.sum(), parts={"mean": samples.mean()})


def toy_gradient(weight: float, samples: list[float]) -> float:
    """Differentiate the mean over all samples by hand."""
    return sum(2 * x * (weight * x - 1) for x in samples) / len(samples)


def no_audio(*skipped: str) -> Batch:
    """Return the stand-in for a batch whose files are all bad."""
    return dataclasses.replace(toy_batch([7.0]), ids=(), is_stand_in=True, skipped=skipped)


def toy_batch(*rows: list[float]) -> Batch:
    return collate([Example(id=str(i), waveform=torch.tensor(row)) for i, row in enumerate(rows)])


def plain_descent(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=optim.lr)


@pytest.fixture
def descend(monkeypatch):
    """Replace the optimiser by plain gradient descent, so that a step shows the gradient."""
    monkeypatch.setattr(running, "build_optimizer", plain_descent)


@pytest.fixture
def train(tmp_path):
    """Return a function that trains a model on batches, which repeat from the first."""

    def run(
        model: nn.Module,
        batches: list[Batch],
        *,
        optim: OptimConfig = CONSTANT,
        evaluate=None,
        ranks=ALONE,
        max_bad_share=1.0,
        **config,
    ) -> Path:
        def batches_from(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
            while True:
                for index in range(position, len(batches)):
                    yield epoch, index + 1, batches[index]
                epoch, position = epoch + 1, 0

        settings = TrainConfig(**{"log_every": 1, **config})
        return fit(
            Run(
                model,
                out=tmp_path / "run",
                seed=0,
                optim=optim,
                config=settings,
                ranks=ranks,
                title="test",
                max_bad_share=max_bad_share,
                evaluate=evaluate,
            ),
            batches_from,
        )

    return run


BATCHES = [toy_batch([1.0, 2.0, 3.0], [4.0]), toy_batch([5.0]), toy_batch([0.5, 0.25])]
SAMPLES = [[1.0, 2.0, 3.0, 4.0], [5.0], [0.5, 0.25]]


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_the_gradient_is_divided_by_the_number_of_predictions(train, descend, batch):
    model = Toy()
    train(model, BATCHES[batch : batch + 1], steps=1)
    assert model.weight.item() == pytest.approx(0.25 - 0.5 * toy_gradient(0.25, SAMPLES[batch]))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_weigh_like_one_large_batch(train, descend, accumulate):
    model = Toy()
    train(model, BATCHES, steps=1, accumulate=accumulate)
    samples = [sample for part in SAMPLES[:accumulate] for sample in part]
    assert model.weight.item() == pytest.approx(0.25 - 0.5 * toy_gradient(0.25, samples))


def test_accumulated_pretraining_batches_have_the_gradient_of_their_union(make_task, tmp_path, descend):
    plain = dataclasses.replace(MaskedPredictionConfig(mask=MaskConfig(start_prob=0.0, min_spans=0), dim=8))
    config = dataclasses.replace(
        plain, unmasked_weight=1.0, feature_penalty=0.0
    )  # every frame counts, nothing is drawn
    norms = []
    for name, accumulate in (("two", 2), ("one", 1)):
        model, batches_from, _ = make_task(config, dropout=0.0)
        first, second = [batch for (_, _, batch), _ in zip(batches_from(0, 0), range(2), strict=False)]
        examples = [
            Example(id=key, waveform=waveform[:n], labels=labels[:, : int(frame_count(n, model.encoder.config.conv))])
            for batch in (first, second)
            for key, waveform, n, labels in zip(
                batch.ids, batch.waveforms, batch.num_samples, batch.labels.transpose(0, 1), strict=True
            )
        ]
        batches = [first, second] if accumulate == 2 else [collate(examples)]
        fit(
            Run(
                model,
                out=tmp_path / name,
                seed=0,
                optim=CONSTANT,
                config=TrainConfig(steps=1, accumulate=accumulate),
                ranks=ALONE,
                title="test",
            ),
            lambda e, p, batches=batches: ((0, i + 1, batch) for i, batch in enumerate(batches)),
        )
        norms.append(read_log(tmp_path / name)[1]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] > 0.01


def test_the_divisor_of_pretraining_is_the_number_of_masked_frames(make_task, tmp_path, descend):
    model, batches_from, seed = make_task(MaskedPredictionConfig(mask=MASK, dim=8, feature_penalty=0.0), dropout=0.0)
    _, _, batch = next(batches_from(0, 0))
    generator = seeded_generator(seed, "masks", 0, 0)
    counts = frame_count(batch.num_samples, model.encoder.config.conv)
    is_masked = draw_spans(counts, int(counts.max()), MASK, generator.clone_state())
    value = model(batch, StepContext(step=0, generator=generator, layer_seed=0)).value
    expected = torch.autograd.grad(value / is_masked.sum(), model.encoder.project.weight)[0]
    before = model.encoder.project.weight.detach().clone()
    fit(
        Run(
            model,
            out=tmp_path / "run",
            seed=seed,
            optim=CONSTANT,
            config=TrainConfig(steps=1),
            ranks=ALONE,
            title="test",
        ),
        batches_from,
    )
    assert torch.allclose(before - model.encoder.project.weight, 0.5 * expected, atol=1e-6)
    assert expected.abs().max() > 1e-4


def test_gradients_are_clipped_after_the_division(train, descend):
    model = Toy()
    train(model, BATCHES, steps=1, optim=dataclasses.replace(CONSTANT, max_grad_norm=0.01))
    assert abs(model.weight.item() - 0.25) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_gradients_are_left_alone_without_a_limit(train, descend, tmp_path):
    train(Toy(), [toy_batch([1e4])], steps=1)
    assert read_log(tmp_path / "run")[1]["grad_norm"] == pytest.approx(abs(toy_gradient(0.25, [1e4])))


def test_a_report_averages_the_steps_since_the_last(train, tmp_path):
    train(Toy(), BATCHES, steps=5, log_every=2, optim=dataclasses.replace(CONSTANT, lr=1e-12, weight_decay=0.0))
    log = read_log(tmp_path / "run")
    losses = [sum((0.25 * x - 1) ** 2 for x in part) / len(part) for part in SAMPLES]
    assert list(log) == [2, 4, 5]
    assert log[2]["loss"] == pytest.approx((losses[0] + losses[1]) / 2)
    assert log[4]["loss"] == pytest.approx((losses[2] + losses[0]) / 2)
    assert log[5]["loss"] == pytest.approx(losses[1])
    assert log[5]["mean"] == pytest.approx(5.0)


def test_a_report_tells_the_rate_the_epoch_and_the_hours_seen(train, tmp_path):
    train(Toy(), BATCHES, steps=4, optim=OptimConfig(lr=1.0, warmup=0.5))
    log = read_log(tmp_path / "run")
    assert [log[step]["lr"] for step in (1, 2, 3, 4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert [log[step]["epoch"] for step in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert log[4]["hours_seen"] == pytest.approx((4 + 1 + 2 + 4) / 16_000 / 3600)


class Failing(Toy):
    """Breaks down at one step, in its loss or in its gradient alone."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.step, self.what = step, what

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        loss = super().forward(batch, context)
        if context.step != self.step:
            return loss
        match self.what:
            case "gradient":
                value = loss.value + (self.weight - self.weight.detach()).abs().sqrt()  # finite; its slope is not
            case "nan" | "inf" as number:
                value = loss.value * float(number)
        return dataclasses.replace(loss, value=value)


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_named(train, tmp_path, capfd, what):
    model, straight = Failing(3, what), Toy()
    last = train(model, BATCHES, steps=6, save_every=1)
    log = read_log(tmp_path / "run")
    assert [log[step]["skipped_steps"] for step in log] == [0, 0, 0, 1, 1, 1]
    assert "loss" not in log[4]  # what the step would have given is no part of any average
    assert math.isfinite(model.weight.item())
    said = capfd.readouterr().err
    assert "test: step 3: loss" in said
    assert "not finite, nothing was updated; utterances: 0, 1; find the one with `speechssl replay" in said
    state = read_state(last)
    assert (state.skipped_steps, state.skipped_in_a_row, state.step) == (1, 0, 6)
    three = load_tensors(tmp_path / "run/skipped_step_00000003/model.safetensors")
    shutil.rmtree(tmp_path / "run")
    train(straight, BATCHES, steps=6, save_every=1, keep=9)
    assert three == load_tensors(tmp_path / "run/step_00000003/model.safetensors")


@pytest.mark.parametrize("in_a_row", [1, 2, 4])
def test_a_run_stops_after_so_many_skipped_steps_in_a_row(train, tmp_path, in_a_row):
    model = Toy()
    model.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match=rf"step {in_a_row - 1}: loss nan.*; {in_a_row} steps in a row, so the run"):
        train(model, BATCHES, steps=9, stop_after_skipped=in_a_row)
    assert len(list((tmp_path / "run").glob("skipped_step_*"))) == min(in_a_row, 3)


def test_skipped_steps_apart_from_each_other_do_not_stop_the_run(train, tmp_path):
    class Often(Failing):
        def forward(self, batch: Batch, context: StepContext) -> LossSum:
            self.step = context.step if context.step % 2 else -1
            return super().forward(batch, context)

    assert read_state(train(Often(0, "nan"), BATCHES, steps=8, stop_after_skipped=2)).skipped_steps == 4


def test_skipped_files_are_counted_and_listed(train, tmp_path, capfd):
    bad = collate(["x.wav: silent", Example(id="a", waveform=torch.ones(3)), "y.wav: empty"])
    out = train(Toy(), [bad, BATCHES[0]], steps=4)
    assert [report["skipped"] for report in read_log(tmp_path / "run").values()] == [2, 2, 4, 4]
    assert read_state(out).skipped == 4
    assert "test: skipped: x.wav: silent" in capfd.readouterr().err


SPOILT = collate([*["x.wav: silent"] * 3, *[Example(id=str(i), waveform=torch.ones(3)) for i in range(97)]])  # 3 %


@pytest.mark.parametrize(("share", "steps_done"), [(0.03, 60), (0.029, 1), (0.0, 0)])
def test_a_run_stops_where_more_than_the_allowed_share_of_audio_is_bad(train, tmp_path, share, steps_done):
    if steps_done == 60:
        assert read_state(train(Toy(), [SPOILT], steps=60, max_bad_share=share, save_every=100)).step == 60
        return
    with pytest.raises(TrainingError, match=rf"step {steps_done}: the audio of {3 * (steps_done + 1)} of the last"):
        train(Toy(), [SPOILT], steps=60, max_bad_share=share)


def test_bad_audio_of_long_ago_counts_no_more(train, tmp_path):
    good = collate([Example(id=str(i), waveform=torch.ones(3)) for i in range(100)])
    batches = [good] * 18 + [SPOILT] + [good] * 25 + [SPOILT] * 2
    state = read_state(train(Toy(), batches, steps=len(batches), max_bad_share=0.005, save_every=100))
    assert (state.skipped, state.recent_bad, state.recent) == (9, 6, 1600)


def test_the_share_of_bad_audio_is_counted_on_over_an_interruption(train, tmp_path):
    train(Toy(), [SPOILT], steps=1, max_bad_share=0.029)
    with pytest.raises(TrainingError, match=r"step 1: the audio of 6 of the last 200 utterances is bad, expected at"):
        train(Toy(), [SPOILT], steps=9, max_bad_share=0.029)


def test_bad_audio_that_another_rank_met_stops_this_one_as_well(train):
    class Beside(Ranks):
        def sum(self, values: Tensor) -> Tensor:
            return values + values.new_tensor([0, 0, 0, 0, 30, 100]) if values.shape == (6,) else values

    with pytest.raises(TrainingError, match=r"the audio of 30 of the last \d+ utterances is bad"):
        train(Toy(), BATCHES, steps=2, max_bad_share=0.1, ranks=Beside(**vars(ALONE)))


def test_a_batch_without_usable_audio_is_passed_over(train, descend):
    model = Toy()
    train(model, [no_audio("x.wav: silent"), BATCHES[0]], steps=1)
    assert model.weight.item() == pytest.approx(0.25 - 0.5 * toy_gradient(0.25, SAMPLES[0]))


def test_a_corpus_without_usable_audio_stops_the_run(train):
    with pytest.raises(TrainingError, match="100 batches in a row hold no usable audio; see the reasons above"):
        train(Toy(), [no_audio("x.wav: silent")], steps=1)


@pytest.mark.parametrize("save_every", [1, 2, 100])
def test_the_best_step_is_kept_beside_the_last_even_if_no_checkpoint_was_due(train, tmp_path, save_every):
    scores = iter([0.9, 0.4, 0.6, 0.5])
    train(
        Toy(), BATCHES, steps=4, eval_every=1, save_every=save_every, keep=1, evaluate=lambda _: {"cer": next(scores)}
    )
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_00000002", "step_00000004"]
    state = read_state(last_checkpoint(tmp_path / "run"))
    assert (state.best_step, state.best_score, state.scores, state.is_finished) == (2, 0.4, {"cer": 0.5}, True)


@pytest.mark.parametrize(("eval_every", "expected"), [(0, [5]), (2, [2, 4, 5])])
def test_the_model_is_evaluated_every_so_many_steps_and_after_the_last(train, tmp_path, eval_every, expected):
    seen = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled()))
        return {"cer": 1.0}

    train(Toy(), BATCHES, steps=5, eval_every=eval_every, log_every=100, evaluate=evaluate)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "cer" in line] == expected
    assert set(seen) == {(False, False)}


def test_training_goes_on_in_training_mode_after_an_evaluation(train):
    modes = []

    class Watched(Toy):
        def forward(self, batch: Batch, context: StepContext) -> LossSum:
            modes.append(self.training)
            return super().forward(batch, context)

    train(Watched(), BATCHES, steps=3, eval_every=1, evaluate=lambda _: {"cer": 1.0})
    assert modes == [True] * 3


def test_a_finished_run_trains_no_further(train, tmp_path):
    first = train(Toy(), BATCHES, steps=3)
    content = {path.name: path.read_bytes() for path in first.iterdir()}
    log = (tmp_path / "run/log.jsonl").read_text()
    never = Failing(3, "nan")
    never.forward = lambda *_, **__: pytest.fail("trained again")
    assert train(never, BATCHES, steps=3) == first
    assert {path.name: path.read_bytes() for path in first.iterdir()} == content
    assert (tmp_path / "run/log.jsonl").read_text() == log


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture
def make_task(tmp_path_factory, make_corpus, tiny_encoder, random_labels) -> Callable[..., tuple]:
    """Return a function that builds a tiny model and its batches, the same every time."""
    folder = tmp_path_factory.mktemp("corpus")

    def make(config: object, *, dropout: float = 0.1, seed: int = 3) -> tuple:
        path = folder / "manifest.tsv"
        manifest = read_manifest(path if path.exists() else make_corpus(folder))
        transformer = dataclasses.replace(
            tiny_encoder.transformer, dropout=dropout, attention_dropout=dropout, layer_drop=2 * dropout
        )
        encoder = dataclasses.replace(tiny_encoder, feature_dropout=dropout, transformer=transformer)
        labels = [random_labels(manifest)] if isinstance(config, MaskedPredictionConfig) else []
        vocabulary = Vocabulary.from_texts(row.text for row in manifest.utterances)
        tokens = {row.id: vocabulary.encode(row.text, where=row.id) for row in manifest.utterances}
        dataset = SpeechDataset(
            manifest, AudioConfig(), hop=encoder.hop, window=encoder.window, labels=labels, tokens=tokens
        )
        crop = None if isinstance(config, CTCConfig) else 0.6
        batch = BatchConfig(seconds=2.5, max_crop_s=crop, min_s=0.1)
        sampler = BatchSampler(manifest.utterances, batch, seed=seed, hop=encoder.hop)
        torch.manual_seed(seed)
        trunk = SpeechEncoder(encoder)
        if isinstance(config, CTCConfig):
            model = CTCModel(trunk, config, len(vocabulary))
        else:
            clusters = tuple(stream.source.clusters for stream in labels)
            model = PretrainModel(trunk, build_objective(config, dim=32, conv_dim=16, clusters=clusters))

        def batches_from(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
            return load_batches(dataset, sampler, epoch=epoch, position=position, workers=0)

        return model, batches_from, seed

    return make


TASKS = {
    "masked_prediction": MaskedPredictionConfig(mask=MASK, dim=8),
    "contrastive": ContrastiveConfig(
        mask=MASK, dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8), feature_dropout=0.1
    ),
    "ctc": CTCConfig(mask=MASK, dropout=0.1, freeze_steps=2, channel_mask=MaskConfig(start_prob=0.05, span=4)),
}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("interruptions", [(4,), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_equals_the_uninterrupted_run_bit_for_bit(make_task, tmp_path, task, interruptions):
    def run(out: Path, stop_before: int | None) -> nn.Module:
        """Train; fail when the batch after `stop_before` steps is requested."""
        model, batches_from, seed = make_task(TASKS[task])
        start = read_state(last).step if (last := last_checkpoint(out)) else 0

        def until_stopped(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
            for step, item in zip(count(start), batches_from(epoch, position), strict=False):
                if step == stop_before:
                    raise PlugPulledError
                yield item

        torch.rand(17)  # whoever starts a run may have drawn before
        fit(
            Run(
                model,
                out=out,
                seed=seed,
                optim=OptimConfig(lr=1e-3, warmup=0.3),
                config=TrainConfig(steps=7, log_every=1, save_every=1 if len(interruptions) > 1 else 3),
                ranks=ALONE,
                title="test",
            ),
            until_stopped,
        )
        return model

    torch.manual_seed(0)
    straight = run(tmp_path / "straight", None)
    for stop in interruptions:
        with pytest.raises(PlugPulledError):
            run(tmp_path / "resumed", stop)
    resumed = run(tmp_path / "resumed", None)
    log = read_log(tmp_path / "straight")
    assert list(log) == [1, 2, 3, 4, 5, 6, 7]
    assert read_log(tmp_path / "resumed") == log
    assert len({report["loss"] for report in log.values()}) == 7
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize("task", TASKS)
def test_dropout_is_at_work_in_the_runs_compared_above(make_task, task):
    model, batches_from, _ = make_task(TASKS[task])
    _, _, batch = next(batches_from(0, 0))
    values = {
        model(batch, StepContext(step=5, generator=torch.Generator().manual_seed(0))).value.item() for _ in range(3)
    }
    assert len(values) == 3
