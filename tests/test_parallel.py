"""Ranks and devices: speechssl.parallel. Tests with several processes are in tests/distributed."""

from collections.abc import Iterator

import pytest
import torch

from speechssl.parallel import pick_device


@pytest.fixture
def as_before() -> Iterator[None]:
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("rounds", [False, True])
def test_convolutions_on_cuda_round_as_products_of_matrices_do(monkeypatch: pytest.MonkeyPatch, rounds: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = rounds, not rounds
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device() == torch.device("cuda", 3)
    assert torch.backends.cudnn.allow_tf32 is rounds
