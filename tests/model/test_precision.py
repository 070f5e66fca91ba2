"""Inference in fewer bits: speechssl.model.precision."""

import dataclasses
import weakref

import pytest
import torch
from torch import nn

from speechssl.errors import ConfigError
from speechssl.model import precision
from speechssl.model.fast.packed import Bfloat16Linear, Int8Linear, PackedConv, PackedPositions
from speechssl.model.lora import LoraConfig, add_adapters
from speechssl.model.precision import choose_precision, pack, reason_for
from tests.model.precisions import skip_without
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, LOG_MEL_LIKE, TINY_TRANSFORMER, distance, noise, tiny_encoder

CPU = torch.device("cpu")
WIDE = dataclasses.replace(  # convolutions of 32 channels a group, which bfloat16 suits
    BASE_LIKE,
    conv=((32, 10, 5), (32, 3, 2), (16, 2, 2)),
    transformer=dataclasses.replace(TINY_TRANSFORMER, position_groups=1),
)
LENGTHS = torch.tensor([820, 430])


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE, WIDE], ids=["base", "large", "wide"])
def test_a_packed_encoder_gives_the_same_but_for_rounding(config, kind: str) -> None:
    skip_without(kind)
    exact = tiny_encoder(config)
    before = {name: tensor.clone() for name, tensor in exact.state_dict().items()}
    packed = pack(exact, kind)
    with torch.no_grad():
        ours, theirs = packed(noise(2, 820), LENGTHS), exact(noise(2, 820), LENGTHS)
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert one.dtype == torch.float32
        assert 0 < distance(one * theirs.is_valid[..., None], other * theirs.is_valid[..., None]) < 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in exact.state_dict().items())
    assert pack(packed, kind) is packed


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_packed_encoder_of_log_mel_energies_gives_the_same_but_for_rounding(kind: str) -> None:
    skip_without(kind)
    exact = tiny_encoder(dataclasses.replace(LOG_MEL_LIKE, log_mel_bins=80, conv=((32, 3, 2), (32, 3, 2))))
    with torch.no_grad():
        waveforms, lengths = 0.1 * noise(2, 8_200), torch.tensor([8_200, 4_300])
        ours, theirs = pack(exact, kind)(waveforms, lengths), exact(waveforms, lengths)
    assert 0 < distance(ours.last[theirs.is_valid], theirs.last[theirs.is_valid]) < 0.1


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_quiet_utterance_comes_out_the_same_beside_a_loud_one(kind: str) -> None:
    skip_without(kind)
    encoder = pack(tiny_encoder(LARGE_LIKE), kind)  # without a group norm, loudness reaches the layers
    quiet, loud = 0.01 * noise(820), 10 * noise(820, seed=1)
    with torch.no_grad():
        alone = encoder(quiet[None], LENGTHS[:1]).last[0]
        together = encoder(torch.stack([loud, quiet]), LENGTHS[[0, 0]]).last[1]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 600])
def test_int8_is_the_product_of_rounded_factors(rows: int) -> None:
    skip_without("int8")
    linear = nn.Linear(64, 48)
    x = noise(rows, 64) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 0
    with torch.no_grad():
        found = Int8Linear(linear)(x)
    scale_w = linear.weight.detach().abs().amax(1, keepdim=True) / 127
    scale_x = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    rounded = (x / scale_x).round() * scale_x, (linear.weight.detach() / scale_w).round() * scale_w
    expected = rounded[0].double() @ rounded[1].double().T + linear.bias.detach()
    scale = linear.weight.detach().norm() * x.norm(dim=1, keepdim=True) + linear.bias.detach().norm()
    assert float(((found - expected).abs() / scale).max()) < 3e-3  # without VNNI oneDNN gives up a bit of the weights
    assert torch.allclose(found[0], linear.bias.detach(), atol=1e-6)


def test_gelu_that_follows_at_once_is_the_same_gelu() -> None:
    for kind, layer in (("bfloat16", Bfloat16Linear), ("int8", Int8Linear)):
        skip_without(kind)
        built = layer(nn.Linear(32, 16))
        x = noise(2, 5, 32)
        assert distance(built.activated(x), nn.functional.gelu(built(x).float())) < 0.01


@pytest.mark.parametrize("gelu", [True, False])
def test_packed_convolutions_equal_their_module_but_for_rounding(gelu: bool) -> None:
    skip_without("bfloat16")
    conv = nn.Conv1d(16, 32, 3, 2)
    x = noise(2, 41, 16)
    with torch.no_grad():
        expected = conv(x.mT).mT
        found = PackedConv(conv)(x, gelu=gelu)
    assert found.dtype == torch.bfloat16
    assert distance(found, nn.functional.gelu(expected) if gelu else expected) < 0.01


@pytest.mark.parametrize("kernel", [6, 7])
def test_packed_positions_equal_their_module(kernel: int) -> None:
    transformer = dataclasses.replace(TINY_TRANSFORMER, position_kernel=kernel)
    positions = tiny_encoder(dataclasses.replace(BASE_LIKE, transformer=transformer)).transformer.positions
    x = noise(2, 9, 32)
    with torch.no_grad():
        found, expected = PackedPositions(positions.conv, torch.float32)(x), positions(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_packing_in_place_lets_go_of_each_module_and_gives_the_same(kind: str) -> None:
    skip_without(kind)
    model, waveforms, counts = tiny_encoder(), noise(2, 820), torch.tensor([820, 430])
    with torch.no_grad():
        expected = pack(model, kind)(waveforms, counts).last
    before = {name: weakref.ref(module) for name, module in model.named_modules() if name.endswith("expand")}
    assert isinstance(model.transformer.layers[0].expand, nn.Linear)  # a copy was packed
    assert pack(model, kind, in_place=True) is model
    assert [name for name, module in before.items() if module() is not None] == []
    with torch.no_grad():
        assert torch.equal(model(waveforms, counts).last, expected)


def test_nothing_is_prepared_in_float32_and_adapters_are_refused() -> None:
    encoder = tiny_encoder()
    assert pack(encoder, "float32") is encoder
    with pytest.raises(ConfigError, match="the model has adapters; merge them first"):
        pack(add_adapters(encoder, LoraConfig(rank=2)), "bfloat16")


@pytest.mark.parametrize(
    ("bfloat16", "int8", "expected"),
    [(4.0, 3.0, "bfloat16"), (1.7, 3.0, "int8"), (0.3, 2.0, "int8"), (1.1, 1.2, "float32"), (0.0, 0.0, "float32")],
)
def test_auto_takes_the_fastest_and_of_two_alike_the_more_exact(
    bfloat16: float, int8: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_speeds", lambda: {"float32": 1.0, "bfloat16": bfloat16, "int8": int8})
    assert choose_precision("auto", CPU) == expected
    assert reason_for(expected, "auto", CPU).startswith(f"precision: {expected} (products on this processor")
    assert choose_precision("float32", CPU) == "float32"


def test_the_measurement_times_each_precision_that_there_is() -> None:
    speeds = precision._speeds()
    assert speeds["float32"] == 1.0
    for kind in ("bfloat16", "int8"):
        assert (speeds[kind] > 0) == (not precision._lacking(kind))
    assert torch.get_num_threads() == 1


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="precision=int8: is for CPUs, and the device is cuda:0"):
        choose_precision("int8", torch.device("cuda", 0))
    assert choose_precision("bfloat16", torch.device("cuda", 0)) == "bfloat16"
    monkeypatch.setattr(precision, "has_onednn", lambda: False)
    for kind in ("bfloat16", "int8"):
        with pytest.raises(ConfigError, match=f"precision={kind}: this build of torch has no oneDNN; choose float32"):
            choose_precision(kind, CPU)
