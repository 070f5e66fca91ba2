"""The switch of kernels written for CPUs: speechssl.model.fast."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechssl.errors import ConfigError
from speechssl.model import attention, dropout, fast, linear, positions
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.fast import convolution
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise
from tests.tasks.stubbed_device import move_parameters, on_device, stubbed_device

CALLERS = [  # modules that call a kernel, and its name there
    (convolution, "convolve"),
    (linear, "linear"),
    (attention, "attend_rows"),
    (attention, "attend_packed_rows"),
    (positions, "correlate"),
    (dropout, "dropout"),
]
DROPPING = dataclasses.replace(BASE_LIKE.transformer, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)
REGULARISED = dataclasses.replace(BASE_LIKE, feature_dropout=0.1, transformer=DROPPING)
LENGTHS = torch.tensor([820, 430])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Yield the names of the kernels that were called."""
    names: set[str] = set()

    def noting(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            names.add(name)
            return kernel(*args, **options)

        return call

    for module, name in CALLERS:
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    yield names


def encoder(config=REGULARISED) -> SpeechEncoder:
    built = SpeechEncoder(config)
    randomise(built)
    return built.train()


def learn(model: nn.Module, waveforms: Tensor) -> None:
    model(waveforms, LENGTHS).last.square().sum().backward()


def operators(graph: torch.fx.Graph) -> set[str]:
    """Return the names of the operators in a graph and its subgraphs."""
    modules = [module for module in graph.owning_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return {str(node.target) for module in modules for node in module.graph.nodes if node.op.startswith("call")}


def test_a_step_on_a_cpu_takes_every_kernel(called: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_KERNELS", "ours")
    model = encoder()
    learn(model, noise(2, 820))
    model.transformer.packed = True
    learn(model, noise(2, 820))
    assert called == {name for _, name in CALLERS}


def test_the_switch_says_yes_on_a_cpu_alone() -> None:
    assert fast.applies(noise(3))
    assert not fast.applies(torch.empty(3, device="meta"))
    assert not fast.applies(on_device(noise(3)))

    class OnCUDA:
        device = torch.device("cuda", 0)

    assert not fast.applies(OnCUDA())


def test_the_environment_turns_kernels_off(called: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_KERNELS", "plain")
    learn(encoder(), noise(2, 820))
    assert called == set()
    monkeypatch.setenv("SPEECHSSL_KERNELS", "fastest")
    with pytest.raises(ConfigError, match="expected one of auto, ours, plain"):
        fast.applies(noise(3))


def test_inference_takes_one_convolution_for_product_and_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    activated = []
    kernel = convolution.convolve_for_inference

    def noting(*args: Any, gelu: bool = False) -> Tensor:
        activated.append(gelu)
        return kernel(*args, gelu=gelu)

    monkeypatch.setattr(convolution, "convolve_for_inference", noting)
    model = encoder().eval()
    with torch.no_grad():
        model(noise(2, 820), LENGTHS)
        assert activated
        assert all(activated)
        activated.clear()
        with fast.plain_only():
            model(noise(2, 820), LENGTHS)
    learn(model, noise(2, 820))
    assert not activated


def test_the_switch_turns_kernels_off_for_a_block_and_no_longer(called: set[str]) -> None:
    with fast.plain_only():
        with fast.plain_only():
            learn(encoder(), noise(2, 820))
        assert not fast.applies(noise(3))
    assert fast.applies(noise(3))
    assert called == set()
    with pytest.raises(KeyError), fast.plain_only():
        raise KeyError
    assert fast.applies(noise(3))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("config", [REGULARISED, LARGE_LIKE], ids=["base", "large"])
def test_a_step_on_a_device_takes_no_kernel(config, packed: bool, called: set[str]) -> None:
    model = encoder(config)
    model.transformer.packed = packed
    move_parameters(model)
    with stubbed_device():
        learn(model, on_device(noise(2, 820)))
    assert called == set()
    assert all(parameter.grad is not None for parameter in model.transformer.layers.parameters())


@pytest.mark.filterwarnings("default")  # torch's compiler warns of what it does itself
def test_compiled_layers_take_no_kernel(called: set[str]) -> None:
    model, graphs = encoder(), []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    for layer in model.transformer.layers:
        layer.compile(backend=backend, dynamic=True, fullgraph=True)
    learn(model, noise(2, 820))
    torch._dynamo.reset()
    assert called == {"convolve", "correlate", "dropout"}  # by modules that are not compiled
    found = set.union(*map(operators, graphs))
    assert any("scaled_dot_product_attention" in name for name in found)
    assert any("dropout" in name for name in found)
    assert not any("autograd_function" in name for name in found)


@pytest.mark.filterwarnings("default")
def test_an_extractor_and_positions_that_are_compiled_take_no_kernel(called: set[str]) -> None:
    model, graphs = encoder(), []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    x = noise(2, 7, 32)
    expected = model.conv(noise(2, 820), LENGTHS), model.transformer.positions(x)
    called.clear()
    found = (
        torch.compile(model.conv, backend=backend)(noise(2, 820), LENGTHS),
        torch.compile(model.transformer.positions, backend=backend)(x),
    )
    torch._dynamo.reset()
    assert called == set()
    assert any("conv1d" in name for graph in graphs for name in operators(graph))
    assert not any("autograd_function" in name for graph in graphs for name in operators(graph))
    torch.testing.assert_close(found[0][0], expected[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


class Last(nn.Module):
    """An encoder that returns a tensor, since exported graphs cannot return `Encoded`."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Map waveforms to the last layer."""
        return self.encoder(waveforms, num_samples).last


@pytest.mark.parametrize("config", [REGULARISED, LARGE_LIKE], ids=["base", "large"])
@pytest.mark.parametrize("is_training", [True, False])
def test_an_exported_graph_holds_no_kernel(config, is_training: bool, called: set[str]) -> None:
    model = Last(encoder(config)).train(is_training)
    program = torch.export.export(model, (noise(2, 820), LENGTHS), strict=False)
    found = operators(program.graph)
    assert called == set()
    assert any("conv1d" in name for name in found)
    assert any("scaled_dot_product_attention" in name for name in found)
