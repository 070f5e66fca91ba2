"""Copies from host to device: speechssl.model.host."""

import pytest
import torch

from speechssl.model.host import frames_where, generator_on, send
from tests.model.tiny import noise

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5)])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0], ids=["none", "some", "all"])
def test_chosen_frames_are_those_of_a_boolean_index_and_so_is_their_gradient(
    share: float, shape: tuple[int, ...]
) -> None:
    is_chosen = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < share
    x, other = (noise(*shape).requires_grad_() for _ in range(2))
    found, expected = frames_where(x, is_chosen), other[is_chosen]
    assert torch.equal(found, expected)
    cotangent = noise(*expected.shape, seed=1)
    found.backward(cotangent)
    expected.backward(cotangent)
    assert torch.equal(x.grad, other.grad)


def test_a_tensor_that_is_there_already_is_not_copied() -> None:
    x = noise(3)
    assert send(x, CPU) is x
    assert send(x, META).device == META


def test_a_generator_that_draws_there_already_is_taken_as_it_is() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert generator_on(CPU, generator) is generator
    assert torch.equal(generator.get_state(), before)


class ElsewhereGenerator(torch.Generator):
    """A generator that claims another device."""

    device = property(lambda _: META)


def test_a_generator_of_the_host_seeds_another_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for seed in (5, 5, 6):
        host = torch.Generator().manual_seed(seed)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "Generator", lambda _: ElsewhereGenerator())
            made = [generator_on(META, host) for _ in range(2)]
        assert {one.device for one in made} == {META}
        seeds.append([one.initial_seed() for one in made])
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0][0] != seeds[0][1]
