"""Targets of BEST-RQ: speechssl.tasks.random_quantizer."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.tasks import update_sums
from speechssl.tasks.random_quantizer import CodebookConfig, RandomQuantizer
from tests.model.tiny import BASE_LIKE, noise
from tests.oracles.random_projection import oracle_code, oracle_normalized, oracle_stacked

SMALL, BASE = EncoderConfig.small(), EncoderConfig.base()
TINY = CodebookConfig(number=2, entries=7, dim=3, bins=5)
PCA = dataclasses.replace(TINY, projection="pca", pca_steps=3)
EMA = dataclasses.replace(TINY, number=1, update="ema", decay=0.5)
ODD = EncoderConfig(conv=((8, 50, 50), (8, 5, 5)))  # a frame every 250 samples, 1.56 log-mel frames


def utterances(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make padded noise whose colour and loudness change."""
    waveforms = noise(len(lengths), max(lengths), seed=seed).cumsum(1) * 0.01 + noise(len(lengths), max(lengths))
    return waveforms * torch.linspace(0.1, 1, max(lengths)), torch.tensor(lengths)


def frames_of(seed: int) -> Tensor:
    """Make 200 correlated frames of unequal variances."""
    size = 4 * TINY.bins
    return noise(200, size, seed=seed) @ (noise(size, size, seed=99) * torch.linspace(0.1, 2, size)) + 3.0


def learn(quantizer: RandomQuantizer, steps: range, batches: Callable[[int], list[Tensor]]) -> RandomQuantizer:
    for step in steps:
        for frames in batches(step):
            quantizer.observe(frames, quantizer.codes(frames), step)
        quantizer.after_step(step + 1)
    return quantizer


@pytest.mark.parametrize("normalize", ["mean", "mean_and_variance", "none"])
@pytest.mark.parametrize("encoder", [SMALL, BASE, ODD, BASE_LIKE], ids=["small", "base", "odd", "tiny"])
def test_codes_are_those_of_the_equations_whatever_the_padding(encoder: EncoderConfig, normalize) -> None:
    quantizer = RandomQuantizer(dataclasses.replace(TINY, normalize=normalize), encoder)
    waveforms, num_samples = utterances(9000, 6100)
    size = frame_count(9000, encoder.conv)
    found = quantizer(waveforms, num_samples, size)
    for row, length in enumerate(num_samples.tolist()):
        mel = quantizer.log_mel(waveforms[row : row + 1, :length])[0].double().tolist()
        count = frame_count(length, encoder.conv)
        stacked = oracle_stacked(oracle_normalized(mel, normalize), count, hop=encoder.hop, window=encoder.window)
        for book in range(TINY.number):
            projection, entries = quantizer.projections[book].tolist(), quantizer.entries[book].tolist()
            assert found[row, :count, book].tolist() == [oracle_code(frame, projection, entries) for frame in stacked]


def test_what_lies_in_the_padding_does_not_matter() -> None:
    for encoder in (SMALL, BASE_LIKE):
        quantizer = RandomQuantizer(TINY, encoder)
        waveforms, num_samples = utterances(6000, 3000)
        longer = torch.nn.functional.pad(waveforms, (0, 700), value=5.0)
        longer[1, 3000:] = -7.0
        sizes = [frame_count(x.shape[1], encoder.conv) for x in (waveforms, longer)]
        found, other = (quantizer(x, num_samples, size) for x, size in zip((waveforms, longer), sizes, strict=True))
        for row, count in enumerate(frame_count(num_samples, encoder.conv)):
            assert torch.equal(found[row, :count], other[row, :count])


def test_audio_shorter_than_a_log_mel_frame_is_followed_by_silence() -> None:
    quantizer = RandomQuantizer(dataclasses.replace(TINY, normalize="none"), BASE_LIKE)
    waveforms, num_samples = utterances(300, 90)
    found = quantizer.frames(waveforms, num_samples, 14)
    padded = torch.zeros(1, 400)
    padded[0, :90] = waveforms[1, :90]
    torch.testing.assert_close(found[1, 0], quantizer.log_mel(padded)[0, 0])


def test_louder_audio_has_the_same_codes() -> None:
    quantizer = RandomQuantizer(TINY, SMALL)
    waveforms, num_samples = utterances(8000)
    torch.testing.assert_close(
        quantizer.frames(waveforms, num_samples, 11),
        quantizer.frames(7 * waveforms, num_samples, 11),
        atol=1e-3,
        rtol=0,
    )


def test_projections_are_xavier_uniform_and_entries_unit_vectors_in_all_directions() -> None:
    quantizer = RandomQuantizer(CodebookConfig(entries=4000), SMALL)
    bound = (6 / (320 + 16)) ** 0.5
    assert quantizer.projections.abs().max() <= bound
    assert quantizer.projections.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    torch.testing.assert_close(quantizer.entries.norm(dim=-1), torch.ones(1, 4000))
    assert quantizer.entries.mean(1).norm() < 0.05


def test_what_is_drawn_depends_on_the_configured_seed_only() -> None:
    drawn = []
    for default, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(default)
        before = torch.get_rng_state()
        drawn.append(RandomQuantizer(dataclasses.replace(TINY, seed=seed), SMALL).state_dict())
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not torch.equal(drawn[0]["projections"], drawn[2]["projections"])
    assert not torch.equal(drawn[0]["projections"][0], drawn[0]["projections"][1])  # each codebook has its own


def test_nothing_is_learned_and_codes_are_float32_under_autocast() -> None:
    quantizer = RandomQuantizer(TINY, SMALL)
    assert not [*quantizer.parameters()]
    waveforms, num_samples = utterances(16_000)
    expected = quantizer(waveforms, num_samples, 23)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(waveforms, num_samples, 23), expected)


def test_components_are_those_of_all_frames_and_have_unit_variance() -> None:
    quantizer = learn(RandomQuantizer(PCA, SMALL), range(3), lambda step: [frames_of(step)])
    frames = torch.cat([frames_of(step) for step in range(3)]).double()
    centred = frames - frames.mean(0)
    values, directions = torch.linalg.eigh(centred.T @ centred / len(frames))
    projected = (frames - quantizer.mean.double()) @ quantizer.projections[0].double()
    for place in range(TINY.dim):
        expected = centred @ directions[:, -1 - place] / values[-1 - place].sqrt()
        error = min((projected[:, place] - sign * expected).abs().max() for sign in (1, -1))
        assert error < 1e-4
    assert torch.equal(quantizer.projections[0], quantizer.projections[1])
    assert bool(quantizer.is_fitted)


def test_components_are_estimated_after_1_2_4_steps_and_then_stay() -> None:
    config = dataclasses.replace(PCA, pca_steps=6)
    quantizer = RandomQuantizer(config, SMALL)
    changed, last = [], quantizer.projections.clone()
    for step in range(10):
        learn(quantizer, range(step, step + 1), lambda step: [frames_of(step)])
        changed += [step + 1] if not torch.equal(quantizer.projections, last) else []
        last = quantizer.projections.clone()
    assert changed == [1, 2, 4, 6]


def test_a_skipped_last_step_does_not_keep_components_from_becoming_final() -> None:
    quantizer = learn(RandomQuantizer(PCA, SMALL), range(2), lambda step: [frames_of(step)])
    quantizer.observe(frames_of(2) * 1e3, torch.zeros(200, 2, dtype=torch.long), 2)  # skipped: no after_step
    learn(quantizer, range(3, 4), lambda step: [frames_of(step)])
    assert bool(quantizer.is_fitted)
    number = quantizer.frame_sums[-1, -1]
    assert number == 400
    assert quantizer.projections.abs().max() < 10


@pytest.mark.parametrize("config", [PCA, EMA], ids=["pca", "ema"])
def test_a_resumed_quantizer_goes_on_bit_for_bit(config: CodebookConfig) -> None:
    def batches(step: int) -> list[Tensor]:
        return [frames_of(2 * step + turn) for turn in range(2)]

    straight = RandomQuantizer(config, SMALL)
    for stop in (2, 4):
        learn(straight, range(stop), batches)
        resumed = RandomQuantizer(config, SMALL)
        resumed.load_state_dict(straight.state_dict())
        learn(straight, range(stop, 8), batches)
        learn(resumed, range(stop, 8), batches)
        for name, tensor in straight.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name
        straight = RandomQuantizer(config, SMALL)


def test_entries_follow_the_mean_direction_of_their_frames() -> None:
    quantizer = RandomQuantizer(EMA, SMALL)
    frames = frames_of(0)
    codes, before = quantizer.codes(frames)[:, 0], quantizer.entries[0].clone()
    directions = torch.nn.functional.normalize(frames @ quantizer.projections[0], dim=-1)
    quantizer.observe(frames[:90], codes[:90, None], 0)
    quantizer.observe(frames[90:], codes[90:, None], 0)
    quantizer.after_step(1)
    for entry in range(EMA.entries):
        expected = 0.5 * before[entry] + 0.5 * directions[codes == entry].sum(0)
        torch.testing.assert_close(quantizer.entries[0, entry], expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_an_entry_that_nothing_uses_moves_to_where_frames_are() -> None:
    config = dataclasses.replace(EMA, entries=2)
    quantizer = RandomQuantizer(config, SMALL)
    near, far = quantizer.projections[0, :, 0], -quantizer.projections[0, :, 0]
    quantizer.entries[0] = torch.nn.functional.normalize(torch.stack([near, far]) @ quantizer.projections[0], dim=-1)
    quantizer.sums.copy_(quantizer.entries)
    frames = near + 0.3 * noise(200, len(near)) * near.std()
    assert quantizer.codes(frames).sum() == 0
    learn(quantizer, range(12), lambda _: [frames])
    assert 40 < quantizer.codes(frames).sum() < 160
    torch.testing.assert_close(quantizer.entries.norm(dim=-1), torch.ones(1, 2))


def test_sums_are_those_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(total: Tensor) -> None:
        total *= 2

    alone, both = (RandomQuantizer(EMA, SMALL) for _ in range(2))
    frames = frames_of(0)
    learn(alone, range(1), lambda _: [frames, frames])
    monkeypatch.setattr(update_sums.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(update_sums.distributed, "all_reduce", doubled)
    learn(both, range(1), lambda _: [frames])
    assert all(torch.equal(tensor, both.state_dict()[name]) for name, tensor in alone.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": 1}, "entries 2 or more, found 2, 3, 64 and 1"),
        ({"number": 0}, "must be 1 or more"),
        ({"bins": 0}, r"objective\.codebook\.bins must lie between 1 and 100, found 0"),
        ({"bins": 101}, r"objective\.codebook\.bins must lie between 1 and 100, found 101"),
        ({"seed": 2**64}, r"objective\.codebook\.seed must have 64 bits at most, found 18446744073709551616"),
        ({"pca_steps": 0}, "must be 1 or more"),
        ({"decay": 1.0}, r"decay must be at least 0 and below 1, found 1\.0"),
    ],
)
def test_impossible_codebooks_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **changes)


def test_more_components_than_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"codebook\.dim is 21, but a frame has only 20 log-mel values; lower it"):
        RandomQuantizer(dataclasses.replace(PCA, dim=21), SMALL)
