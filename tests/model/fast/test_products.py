"""Matrix products by oneDNN: speechssl.model.fast.products."""

import pytest
import torch

from speechssl.model.fast import convolution, products
from speechssl.model.fast.timing import least_seconds
from speechssl.model.linear import Linear
from tests.model.tiny import distance, noise, randomise


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_KERNELS", "ours")


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (2, 5, 12), (1, 12), (2, 3, 4, 12)])
def test_a_linear_layer_equals_torchs_in_value_and_gradients(
    shape: tuple[int, ...], has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Linear(12, 7, bias=has_bias)
    randomise(layer)
    x = noise(*shape, seed=1).requires_grad_()
    leaves, found = (x, *layer.parameters()), []
    for choice in ("ours", "plain"):
        monkeypatch.setenv("SPEECHSSL_KERNELS", choice)
        out = layer(x)
        assert ("Product" in type(out.grad_fn).__name__) == (choice == "ours")
        found.append((out, *torch.autograd.grad(out, leaves, noise(*out.shape, seed=2))))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    x, weight = noise(5, 12).requires_grad_(), noise(7, 12, seed=1)
    products.linear(x, weight, None).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, -1))
    assert weight.grad is None


def test_products_pass_the_numerical_gradient_check() -> None:
    def linear(*given: torch.Tensor) -> torch.Tensor:
        return products.linear(*(tensor.float() for tensor in given)).double()

    given = [noise(*shape, seed=seed).double().requires_grad_() for seed, shape in enumerate([(5, 3), (4, 3), (4,)])]
    assert torch.autograd.gradcheck(linear, given, eps=1e-2, atol=1e-2)


def test_shifted_products_equal_those_of_torch_in_value_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, found = (noise(9, 6).requires_grad_(), noise(8, 5, seed=1).requires_grad_()), []
    for choice in ("ours", "auto"):
        monkeypatch.setenv("SPEECHSSL_KERNELS", choice)
        monkeypatch.setattr(products, "_onednn_wins", lambda: False)
        out = convolution.ShiftedProducts.apply(*leaves)
        found.append((out, *torch.autograd.grad(out[:-1].square().sum(), leaves)))
    for ours, plain in zip(*found, strict=True):
        assert distance(ours, plain) < 1e-6


def test_other_types_and_empty_batches_stay_with_torch() -> None:
    assert products.is_faster(noise(3))
    assert not products.is_faster(noise(3).double())
    assert not products.is_faster(noise(3).bfloat16())
    assert not products.is_faster(noise(0, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert not products.is_faster(noise(3))


def test_the_measurement_decides_and_intel_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_KERNELS", "auto")
    for is_intel, theirs, expected in ((False, 1.5, True), (False, 1.1, False), (True, 1.5, False)):
        monkeypatch.setattr(products, "is_intel", lambda is_intel=is_intel: is_intel)
        seconds = {"MKL": theirs, "oneDNN": 1.0}
        monkeypatch.setattr(products, "least_seconds", lambda _, seconds=seconds: seconds)
        products._onednn_wins.cache_clear()
        assert products.is_faster(noise(3)) == expected
    products._onednn_wins.cache_clear()


def test_the_least_time_of_each_way_is_told_and_threads_are_as_before() -> None:
    torch.set_num_threads(2)
    x = noise(64, 64)
    found = least_seconds({"once": lambda: x @ x, "often": lambda: sum((x @ x for _ in range(200)), x)})
    assert 0 <= found["once"] < found["often"]
    assert torch.get_num_threads() == 2
