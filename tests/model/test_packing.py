"""Packed batches: speechssl.model.packing, and the layers and attention that work on them."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from speechssl.model.attention import attend_packed, fused_attention
from speechssl.model.context import StepContext
from speechssl.model.frames import within
from speechssl.model.lora import LoraConfig, add_adapters
from speechssl.model.packing import Packing, UnpackedLayers
from speechssl.model.transformer import Transformer
from tests.model.fused_kernels import fused_kernels_on_cpu
from tests.model.tiny import BASE_LIKE, TINY_TRANSFORMER, noise, randomise, tiny_encoder
from tests.tasks.stubbed_device import DEVICE, on_device, stubbed_device

CPU = torch.device("cpu")
COUNTS = [(7, 1, 5), (1, 7), (3, 7, 7, 2), (7, 0, 4), (5, 6)]  # valid frames of rows of 7


def is_valid(counts: tuple[int, ...], frames: int = 7) -> Tensor:
    return within(torch.tensor(counts), frames)


def transformer(**changes: object) -> Transformer:
    built = Transformer(dataclasses.replace(TINY_TRANSFORMER, **changes))
    randomise(built)
    return built.double()


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("counts", COUNTS)
def test_packing_is_choosing_the_valid_frames_and_unpacking_puts_them_back(counts: tuple[int, ...]) -> None:
    valid = is_valid(counts)
    packing = Packing(valid, CPU)
    x = noise(len(counts), 7, 3).requires_grad_()
    packed = packing.pack(x)
    assert torch.equal(packed, x[valid])
    restored = packing.unpack(packed)
    assert torch.equal(restored, x.masked_fill(~valid[..., None], 0))
    cotangent = noise(*restored.shape, seed=1)
    restored.backward(cotangent)
    assert torch.equal(x.grad, cotangent.masked_fill(~valid[..., None], 0))


def test_utterances_without_frames_are_left_out_of_the_offsets() -> None:
    packing = Packing(is_valid((3, 0, 7, 0)), CPU)
    assert packing.offsets.tolist() == [0, 3, 10]
    assert (packing.lengths, packing.longest) == ([3, 7], 7)


@pytest.mark.parametrize("counts", COUNTS)
def test_all_forms_of_packed_attention_equal_attention_of_each_utterance_alone(counts: tuple[int, ...]) -> None:
    packing, size = Packing(is_valid(counts), CPU), sum(counts)
    merged = noise(size, 3, 2, 8).double().requires_grad_()
    cotangent = noise(size, 2, 8, seed=1).double()

    pieces = []
    for part in merged.split(packing.lengths):
        query, key, value = part.permute(1, 2, 0, 3)  # (heads, frames, dim)
        pieces.append(((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(0, 1))
    expected = torch.cat(pieces)
    (expected_gradient,) = torch.autograd.grad(expected, merged, cotangent)

    found = {"rows": attend_packed(merged, packing, 0.0)}
    with torch.autocast("cpu", torch.bfloat16):  # which the products of our own leave to torch; it keeps float64
        found["padded"] = attend_packed(merged, packing, 0.0)
    with fused_kernels_on_cpu() as calls:
        for kernel in ("flash", "efficient"):
            found[kernel] = fused_attention(merged, packing, 0.0, kernel)
        by_gradient = {name: torch.autograd.grad(one, merged, cotangent)[0] for name, one in found.items()}
    assert calls == ["flash", "efficient"]
    torch.testing.assert_close(attend_packed(merged.detach(), packing, 0.0), expected)  # in inference
    for name, one in found.items():
        torch.testing.assert_close(one, expected, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(by_gradient[name], expected_gradient)


def test_fused_attention_keeps_nothing_for_a_backward_pass_that_will_not_come() -> None:
    merged, packing = noise(8, 3, 2, 8), Packing(is_valid((7, 1)), CPU)
    with fused_kernels_on_cpu() as calls, torch.no_grad():
        fused_attention(merged.requires_grad_(), packing, 0.0, "efficient")
    assert calls == ["efficient, never backward"]


@pytest.mark.parametrize(("kernel", "dtype"), [("flash", torch.bfloat16), ("efficient", torch.float32)])
def test_torchs_fused_operators_take_the_arguments_with_dropout_and_derive(kernel: str, dtype: torch.dtype) -> None:
    packing = Packing(is_valid((7, 1)), torch.device("meta"))
    merged = torch.empty(8, 3, 2, 8, dtype=dtype, device="meta", requires_grad=True)
    found = fused_attention(merged, packing, 0.1, kernel)
    found.sum().backward()
    assert (found.shape, found.dtype, merged.grad.shape) == ((8, 2, 8), dtype, merged.shape)


def test_fused_attention_does_not_wait_for_the_device() -> None:
    with stubbed_device() as waits, fused_kernels_on_cpu() as calls:
        merged = on_device(noise(13, 3, 2, 8)).requires_grad_()
        packing = Packing(is_valid((7, 1, 5)), DEVICE)
        for kernel in ("flash", "efficient"):
            fused_attention(merged, packing, 0.0, kernel).sum().backward()
    assert waits == []
    assert calls == ["flash", "efficient"]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(
    ("recompute", "layer_drop", "num_frozen"), [(False, 0.0, 0), (True, 0.0, 0), (True, 0.5, 0), (False, 0.0, 2)]
)
def test_packed_layers_equal_padded_ones_with_all_gradients(
    norm: str, counts: tuple[int, ...], recompute: bool, layer_drop: float, num_frozen: int
) -> None:
    model = transformer(norm=norm, num_layers=4, layer_drop=layer_drop)
    model.recompute = recompute
    valid = is_valid(counts)
    outputs, found = [], []
    for model.packed in (False, True):
        x = noise(len(counts), 7, 32).double().requires_grad_()
        layers = [*model(x, valid, context=StepContext(layer_seed=3, num_frozen=num_frozen))]
        sum((each[valid] * noise(32, seed=k)).sum() for k, each in enumerate(layers)).backward()
        outputs.append(layers)
        found.append({**gradients(model), "x": x.grad})
        model.zero_grad()
    for padded, packed in zip(*outputs, strict=True):
        torch.testing.assert_close(packed[valid], padded[valid])
        assert not packed[~valid].any()
    assert (found[0]["x"] is None) == (num_frozen > 0)
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_packed_layers_stop_early_before_the_final_norm(norm: str) -> None:
    model = transformer(norm=norm, num_layers=3).eval()
    model.packed = True
    x, valid = noise(2, 7, 32).double(), is_valid((7, 3))
    complete, early = model(x, valid), model(x, valid, num_layers=2)
    assert (len(complete), len(early)) == (3, 2)
    torch.testing.assert_close([*early], complete[:2])


def test_adapters_learn_the_same_from_packed_layers() -> None:
    encoder = tiny_encoder(BASE_LIKE)
    add_adapters(encoder, LoraConfig(rank=2, projections=("query", "value", "out")))
    randomise(encoder)
    encoder.train().double()
    counts = torch.tensor([820, 430, 35])
    found = []
    for encoder.transformer.packed in (False, True):
        encoded = encoder(noise(3, 820).double(), counts)
        encoded.last[encoded.is_valid].square().sum().backward()
        found.append({name: gradient for name, gradient in gradients(encoder).items() if "project" in name})
        encoder.zero_grad()
    assert sum(gradient is not None for gradient in found[0].values()) > 0
    torch.testing.assert_close(found[1], found[0])


def test_packed_layers_run_again_with_the_dropout_they_had() -> None:
    model = transformer(dropout=0.2, attention_dropout=0.2, activation_dropout=0.2, layer_drop=0.3, num_layers=4)
    model.packed = True
    found = []
    for model.recompute in (False, True):
        torch.manual_seed(0)
        model(noise(3, 7, 32).double(), is_valid((7, 1, 5)), context=StepContext(layer_seed=1))[
            -1
        ].square().sum().backward()
        found.append(gradients(model))
        model.zero_grad()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_layers_see_the_valid_frames_alone() -> None:
    model, shapes = transformer(), []
    model.packed = True
    for layer in model.layers:
        layer.register_forward_hook(lambda _, inputs, output: shapes.append((inputs[0].shape, output.shape)))
    model(noise(3, 7, 32).double(), is_valid((7, 1, 5)))
    assert shapes == [((13, 32), (13, 32))] * 2


@pytest.mark.parametrize("counts", [(7, 7), (0, 0)])
def test_a_batch_without_padding_or_without_frames_is_not_packed(counts: tuple[int, ...]) -> None:
    model = transformer()
    model.packed = True
    assert isinstance(model(noise(2, 7, 32).double(), is_valid(counts)), list)


def test_only_what_is_asked_for_is_unpacked_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = Packing(is_valid((7, 2)), CPU)
    layers = UnpackedLayers([noise(9, 4, seed=k) for k in range(5)], packing)
    calls: list[Tensor] = []
    unpack = packing.unpack
    monkeypatch.setattr(packing, "unpack", lambda x: calls.append(x) or unpack(x))
    assert layers[-1] is layers[4]
    assert [each.shape for each in layers[3:]] == [(2, 7, 4)] * 2
    assert len(calls) == 2
    assert len([*layers]) == len(layers) == 5
    with pytest.raises(IndexError):
        layers[5]


def test_autocast_agrees_with_float32() -> None:
    model = transformer().float()
    model.packed = True
    x, valid = noise(3, 7, 32), is_valid((7, 1, 5))
    exact = model(x, valid)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, valid)[-1]
    found.sum().backward()
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.1)


COMPILES = pytest.mark.filterwarnings("default")  # torch's compiler warns of what it does itself
BATCHES = (((5, 40), (40, 13, 22, 31, 8)), ((3, 57), (57, 2, 33)), ((4, 33), (9, 33, 30, 1)), ((2, 80), (80, 41)))


@COMPILES
@pytest.mark.parametrize(("norm", "dropout"), [("post", 0.2), ("pre", 0.0)])
@pytest.mark.parametrize("packed", [False, True])
def test_compiled_layers_are_one_graph_with_padding_and_one_without(packed: bool, norm: str, dropout: float) -> None:
    changes = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), dropout)
    model = transformer(norm=norm, num_layers=4, layer_drop=0.3, **changes).float()
    model.packed, model.recompute = packed, dropout > 0
    torch._dynamo.reset()
    counter = CompileCounter()
    for layer in model.layers:
        layer.compile(backend=counter, dynamic=True, fullgraph=True)
    for step, ((batch, frames), counts) in enumerate(BATCHES * 2):
        valid = is_valid(counts if step % 2 else (frames,) * batch, frames)
        model(noise(batch, frames, 32), valid, context=StepContext(layer_seed=step))[-1].square().sum().backward()
    assert counter.frame_count <= 2
    model.eval()
    with torch.no_grad():
        for (batch, frames), counts in BATCHES:
            model(noise(batch, frames, 32), is_valid(counts, frames))
    assert counter.frame_count <= 3
    torch._dynamo.reset()


@COMPILES
@pytest.mark.parametrize("packed", [False, True])
def test_compiled_layers_compute_the_same(packed: bool) -> None:
    model, x, valid = transformer(num_layers=1), noise(3, 7, 32).double(), is_valid((7, 1, 5))
    model.packed = packed
    found = []
    for is_compiled in (False, True):
        if is_compiled:
            torch._dynamo.reset()
            for layer in model.layers:
                layer.compile(backend="aot_eager", dynamic=True, fullgraph=True)
        last = model(x, valid)[-1]
        last[valid].square().sum().backward()
        found.append((last.detach()[valid], gradients(model)))
        model.zero_grad()
    torch.testing.assert_close(found[1], found[0])


@COMPILES
@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_fused_attention_compiles_once_for_all_lengths(kernel: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(fused_attention, backend=counter, dynamic=True, fullgraph=True)
    for (_, frames), counts in BATCHES:
        packing = Packing(is_valid(counts, frames), torch.device("meta"))
        merged = torch.empty(sum(counts), 3, 2, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
        compiled(merged, packing, 0.1, kernel)
    assert counter.frame_count == 1
