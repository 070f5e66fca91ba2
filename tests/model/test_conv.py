"""The convolutional feature extractor: speechssl.model.conv."""

import collections
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from speechssl.model.conv import ConvFeatureExtractor
from speechssl.model.frames import frame_count, within
from tests.model.tiny import LOG_MEL_BOTH, TINY_STACK, distance, noise, randomise
from tests.oracles.trunk import oracle_extract, oracle_log_mel_extract


class Written(TorchDispatchMode):
    """Counts the bytes that activations and norms write, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.by_type: collections.Counter[tuple[str, torch.dtype]] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (name := func.overloadpacket.__name__) in ("gelu", "gelu_backward", "add", "mm"):
            self.by_type[name, out.dtype] += out.nbytes
        return out


def test_under_autocast_a_layer_norm_leaves_nothing_wide_in_float32_and_stays_close() -> None:
    extractor = ConvFeatureExtractor(((64, 10, 5), (64, 3, 2), (64, 2, 2)), "layer", bias=True)
    waveforms, counts = noise(2, 40_000), torch.tensor([40_000, 36_000])
    expected = extractor(waveforms, counts)
    cotangent = noise(*expected.shape, seed=1)
    expected.backward(cotangent)
    exact = {name: parameter.grad for name, parameter in extractor.named_parameters()}
    extractor.zero_grad()

    with Written() as written:
        with torch.autocast("cpu", torch.bfloat16):
            found = extractor(waveforms, counts)
        found.backward(cotangent.bfloat16())

    assert found.dtype == torch.bfloat16
    assert {name for name, _ in written.by_type} == {"gelu", "gelu_backward", "add", "mm"}
    assert [key for key in written.by_type if key[1] != torch.bfloat16] == []
    valid = frame_count(36_000, extractor.stack)
    assert distance(found[:, :valid], expected[:, :valid]) < 0.015
    for name, parameter in extractor.named_parameters():
        assert distance(parameter.grad, exact[name]) < 0.03, name


@pytest.mark.parametrize("time", [30, 31, 149, 150, 163])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stack", [TINY_STACK, ((4, 5, 4), (6, 2, 3)), ((4, 7, 2), (6, 1, 1), (8, 3, 3))])
def test_extractor_equals_a_stack_of_conv1d(stack: tuple, norm: str, bias: bool, time: int) -> None:
    extractor = ConvFeatureExtractor(stack, norm, bias)
    randomise(extractor)
    waveforms = noise(2, time)

    found = extractor(waveforms, torch.tensor([time, time]))
    expected = torch.stack([oracle_extract(extractor, waveform) for waveform in waveforms])
    cotangent = noise(*expected.shape, seed=1)
    parameters = list(extractor.parameters())

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(found, parameters, cotangent),
        torch.autograd.grad(expected, parameters, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def log_mel_extractor(norm: str, *, padding_in_norm: bool = False) -> ConvFeatureExtractor:
    config = LOG_MEL_BOTH[norm]
    extractor = ConvFeatureExtractor(
        config.stack, config.conv_norm, config.conv_bias, padding_in_norm=padding_in_norm, log_mel=True
    )
    randomise(extractor)
    return extractor


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_log_mel_input_equals_filter_banks_and_conv1d_whatever_the_batch_and_its_padding(
    norm: str, learns: bool
) -> None:
    extractor = log_mel_extractor(norm)
    lengths = torch.tensor([9_000, 1_360, 1_359, 4_321])
    waveforms = 0.1 * noise(4, 9_000)
    padded = waveforms.masked_fill(~within(lengths, 9_000), torch.nan)
    with torch.set_grad_enabled(learns):
        found = extractor(padded, lengths)
    for row, count in enumerate(frame_count(lengths, extractor.stack).tolist()):
        alone = waveforms[row, : lengths[row]]
        if count:
            torch.testing.assert_close(found[row, :count], extractor(alone[None], lengths[[row]])[0])
            expected = oracle_log_mel_extract(extractor, alone)
            torch.testing.assert_close(found[row, :count], expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_log_mel_input_has_the_gradients_of_conv1d(norm: str) -> None:
    extractor, waveform = log_mel_extractor(norm), 0.1 * noise(5_000)
    found, expected = extractor(waveform[None], torch.tensor([5_000]))[0], oracle_log_mel_extract(extractor, waveform)
    cotangent, parameters = noise(*expected.shape, seed=1), list(extractor.parameters())
    for one, other in zip(
        torch.autograd.grad(found, parameters, cotangent),
        torch.autograd.grad(expected, parameters, cotangent),
        strict=True,
    ):
        assert distance(one, other) < 1e-2


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_loudness_does_not_reach_what_follows_log_mel_input(norm: str) -> None:
    extractor, waveform, length = log_mel_extractor(norm), 0.1 * noise(1, 5_000), torch.tensor([5_000])
    torch.testing.assert_close(extractor(5 * waveform, length), extractor(waveform, length), rtol=1e-3, atol=1e-3)


def test_padding_in_norm_counts_the_silence_of_log_mel_input() -> None:
    waveforms, lengths = 0.1 * noise(2, 9_000), torch.tensor([9_000, 4_000])
    found = log_mel_extractor("group", padding_in_norm=True)(waveforms, lengths)
    zero_filled = waveforms * within(lengths, 9_000)
    expected = log_mel_extractor("group")(zero_filled, torch.tensor([9_000, 9_000]))
    count = int(frame_count(lengths[1], log_mel_extractor("group").stack))
    torch.testing.assert_close(found[1, :count], expected[1, :count])


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_log_mel_input_under_autocast_stays_close(norm: str) -> None:
    extractor, waveforms, lengths = log_mel_extractor(norm), 0.1 * noise(2, 9_000), torch.tensor([9_000, 9_000])
    expected = extractor(waveforms, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(waveforms, lengths)
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < 0.02


@pytest.mark.parametrize("piece", [1, 200, 700, 10**6])  # a frame, some, a row and a half, the whole batch
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stack", [TINY_STACK, ((4, 5, 4), (6, 2, 3)), ((4, 7, 2), (6, 9, 1), (8, 3, 3))])
def test_frames_without_gradients_are_made_in_pieces_that_do_not_show(
    monkeypatch: pytest.MonkeyPatch, stack: tuple, norm: str, piece: int
) -> None:
    extractor = ConvFeatureExtractor(stack, norm, True)
    randomise(extractor)
    waveforms, num_samples = noise(5, 263), torch.tensor([263, 100, 30, 262, 200])
    expected = extractor(waveforms, num_samples).detach()
    monkeypatch.setattr("speechssl.model.in_pieces.PIECE", piece)
    later, pieces = extractor.later_layers, []

    def spy(x: Tensor) -> Tensor:
        pieces.append(x)
        return later(x)

    monkeypatch.setattr(extractor, "later_layers", spy)
    with torch.no_grad():
        found = extractor(waveforms, num_samples)
    for row, count in enumerate(frame_count(num_samples, stack)):
        torch.testing.assert_close(found[row, :count], expected[row, :count], rtol=1e-5, atol=1e-6)
    assert found.shape == expected.shape
    assert (len(pieces) == 1) == (piece == 10**6)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_extractor_gives_the_same_gradient_to_the_waveform_as_conv1d(norm: str) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, norm, True)
    randomise(extractor)
    ours, theirs = noise(163).requires_grad_(), noise(163).requires_grad_()
    found = extractor(ours[None], torch.tensor([163]))[0]
    cotangent = noise(*found.shape, seed=1)
    found.backward(cotangent)
    oracle_extract(extractor, theirs).backward(cotangent)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("lengths", [(163, 30, 77), (30, 163, 164), (29, 100, 60)])
def test_valid_frames_of_a_padded_batch_equal_each_utterance_alone(norm: str, lengths: tuple[int, ...]) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, norm, True)
    randomise(extractor)
    waveforms, num_samples = noise(len(lengths), max(lengths)), torch.tensor(lengths)
    found = extractor(waveforms, num_samples)
    for row, length, count in zip(range(len(lengths)), lengths, frame_count(num_samples, TINY_STACK), strict=True):
        if count:
            expected = oracle_extract(extractor, waveforms[row, :length])
            torch.testing.assert_close(found[row, :count], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("time", [160, 163, 164])  # a whole number of hops, and not
@pytest.mark.parametrize("bias", [True, False])
def test_padding_in_norm_gives_the_frames_of_the_zero_filled_batch(bias: bool, time: int) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, "group", bias, padding_in_norm=True)
    randomise(extractor)
    num_samples = torch.tensor([time, 30, 77])
    waveforms = noise(3, time)
    found = extractor(waveforms, num_samples)
    zero_filled = waveforms * within(num_samples, time)
    for row, count in enumerate(frame_count(num_samples, TINY_STACK)):
        expected = oracle_extract(extractor, zero_filled[row])[:count]
        torch.testing.assert_close(found[row, :count], expected, rtol=1e-4, atol=1e-5)


def test_padding_in_norm_changes_nothing_without_padding_or_without_group_norm() -> None:
    for norm, num_samples in [("group", torch.tensor([163, 163])), ("layer", torch.tensor([163, 77]))]:
        plain, switched = (ConvFeatureExtractor(TINY_STACK, norm, True, padding_in_norm=on) for on in (False, True))
        randomise(plain)
        switched.load_state_dict(plain.state_dict())
        assert torch.equal(plain(noise(2, 163), num_samples), switched(noise(2, 163), num_samples))


@torch.no_grad()
def test_norm_within_the_first_kernel_survives_a_kernel_that_passes_little() -> None:
    """A kernel of second differences on a slow wave far from zero: float32 moments would leave nothing right."""
    torch.manual_seed(0)
    wave = (20 + torch.sin(torch.arange(4000) / 200) + 1e-3 * torch.randn(4000)).repeat(2, 1)
    extractor = ConvFeatureExtractor(((2, 3, 2),), "group", False)
    with torch.no_grad():
        extractor.convs[0].weight.copy_(torch.tensor([[[1.0, -2.0, 1.0]], [[0.5, 1.0, 0.5]]]))
    expected = functional.conv1d(wave[:1, None].double(), extractor.convs[0].weight.double(), stride=2)
    expected = functional.gelu(functional.group_norm(expected, 2))[0].T
    found = extractor(wave, torch.tensor([4000, 4000]))[0]
    assert float((found - expected).abs().max()) < 0.02  # values are about 1; float32 resolves the wave to 2e-6


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("time", [0, 5, 29, 30, 49, 50, 163])
def test_extractor_makes_as_many_frames_as_are_counted(time: int, learns: bool) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, "group", False)
    with torch.set_grad_enabled(learns):
        found = extractor(noise(2, time), torch.tensor([time, time]))
    assert found.shape[:2] == (2, int(frame_count(torch.tensor(time), TINY_STACK)))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_float64_stays_float64_without_gradients(norm: str) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, norm, True)
    randomise(extractor)
    waveforms, lengths = noise(2, 163), torch.tensor([163, 77])
    with torch.no_grad():
        single = extractor(waveforms, lengths)
        double = extractor.double()(waveforms.double(), lengths)
    assert double.dtype == torch.float64
    assert distance(single[0], double[0]) < 1e-5
