"""Alarms and probes in a run: how the loop uses speechssl.train.monitor."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from speechssl.data.batching import Batch, Example, collate
from speechssl.errors import TrainingError
from speechssl.model.encoder import SpeechEncoder
from speechssl.parallel import Ranks
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.registry import build_objective
from speechssl.train.checkpoint import read_state
from speechssl.train.learner import TrainConfig
from speechssl.train.loop import fit
from speechssl.train.monitor import HealthConfig
from speechssl.train.optim import OptimConfig
from speechssl.train.run import Run

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
NO_CODES = QuantizerConfig(groups=2, entries=1, dim=8)  # perplexity 1 from the start: an alarm for certain


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture
def train(tmp_path, tiny_encoder) -> Callable[..., Path]:
    """Return a function that trains a tiny model with one code only."""

    def run(*, stop_before: int | None = None, entries: int = 1, probe=None, name: str = "run", **health) -> Path:
        torch.manual_seed(0)
        config = ContrastiveConfig(dim=8, negatives=5, quantizer=dataclasses.replace(NO_CODES, entries=entries))
        model = PretrainModel(SpeechEncoder(tiny_encoder), build_objective(config, dim=32, conv_dim=16, clusters=()))
        waveforms = torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))
        batch = collate([Example(id=str(i), waveform=waveform) for i, waveform in enumerate(waveforms)])

        def batches_from(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
            while position != stop_before:
                position += 1
                yield epoch, position, batch
            raise PlugPulledError

        return fit(
            Run(
                model,
                out=tmp_path / name,
                seed=0,
                optim=OptimConfig(lr=1e-4),
                config=TrainConfig(steps=8, log_every=2, save_every=3, health=HealthConfig(**health)),
                ranks=ALONE,
                title="test",
                probe=probe,
            ),
            batches_from,
        )

    return run


def alarms(out: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (out / "alarms.jsonl").read_text().splitlines()]
    return [(line["step"], line["name"]) for line in lines]


def reports(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_an_alarm_is_written_and_printed_and_the_run_goes_on(train, capfd) -> None:
    out = train().parent
    assert (4, "codebook_collapse") in alarms(out)
    assert "ALARM at step 4: codebook_collapse: perplexity of the least used codebook" in capfd.readouterr().err
    assert reports(out)[-1]["step"] == 8


def test_a_run_that_is_not_watched_says_nothing(train) -> None:
    assert alarms(train(enabled=False).parent) == []


def test_a_run_that_is_to_stop_saves_says_why_and_goes_on_when_asked_again(train, tmp_path) -> None:
    with pytest.raises(
        TrainingError, match=r"step 4: stopped by an alarm, saved .*step_00000004\. codebook_collapse: "
    ):
        train(stop=True)
    assert read_state(tmp_path / "run/step_00000004").step == 4
    assert train(stop=True).name == "step_00000008"
    assert alarms(tmp_path / "run").count((4, "codebook_collapse")) == 1


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_a_resumed_run_alarms_like_one_that_was_not_interrupted(train, tmp_path, stop: int) -> None:
    straight = train(name="straight", patience=3).parent
    with pytest.raises(PlugPulledError):
        train(name="resumed", patience=3, stop_before=stop)
    resumed = train(name="resumed", patience=3).parent
    assert alarms(resumed) == alarms(straight)
    assert (6, "codebook_collapse") in alarms(straight)
    for name in ("codes_used", "codes_perplexity", "feature_rank", "grad_norm_extractor"):
        assert reports(resumed)[-1][name] == reports(straight)[-1][name]


def test_reports_hold_what_tallies_and_gradients_show(train) -> None:
    last = reports(train(entries=6).parent)[-1]
    assert 2 / 12 < last["codes_used"] <= 1.0
    assert 1 < last["codes_perplexity"] <= 6
    parts = [last[f"grad_norm_{part}"] for part in ("extractor", "projection", "positions", "head")]
    assert all(part > 0 for part in parts)
    assert max(parts) < 2 * last["grad_norm"]  # its own step's, and the mean of two


@pytest.mark.parametrize(("every", "expected"), [(0, []), (3, [3, 6, 8])])
def test_the_probe_is_asked_every_so_many_steps_and_after_the_last(train, every: int, expected: list[int]) -> None:
    def probe(model: nn.Module) -> dict[str, float]:
        return {"probe_rank": 3.0}

    out = train(probe=probe, probe_every=every).parent
    assert [line["step"] for line in reports(out) if line.get("probe_rank") == 3.0] == expected
