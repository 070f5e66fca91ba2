"""Failures of the machine are explained: lost ranks, lost loader processes, full memory."""

import threading
from datetime import timedelta

import pytest
import torch
from torch import distributed

from speechssl.errors import TrainingError
from speechssl.parallel import Ranks
from speechssl.train import loop as failures
from speechssl.train.checkpoint import TrainState
from speechssl.train.loop import explained_failures

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world_size=1, device=CPU)
LOST = "[pair.cc:534] gloo: Connection closed by peer"


def test_full_memory_names_the_settings_that_help():
    message = r"step 7: memory ran out on cpu \(no room\); lower batch\.seconds and raise train\.accumulate"
    with pytest.raises(TrainingError, match=message), explained_failures(ALONE, TrainState(step=7)):
        raise torch.OutOfMemoryError("no room\nstack")


@pytest.mark.parametrize(("ranks", "text"), [(ALONE, LOST), (Ranks(rank=0, world_size=2, device=CPU), "a bug")])
def test_other_errors_pass_as_they_are(ranks, text):
    with pytest.raises(RuntimeError) as raised, explained_failures(ranks, TrainState()):
        raise RuntimeError(text)
    assert str(raised.value) == text


@pytest.mark.parametrize(("living", "named"), [([0], "rank 1, 2 died"), ([0, 2], "rank 1 died")])
def test_the_ranks_that_leave_no_note_are_the_dead_ones(living, named, monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE_S", 0.5)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    said: dict[int, str] = {}

    def lose(rank: int) -> None:
        try:
            with explained_failures(Ranks(rank=rank, world_size=3, device=CPU), TrainState(step=4)):
                raise RuntimeError(LOST)
        except TrainingError as error:
            said[rank] = str(error)

    threads = [threading.Thread(target=lose, args=(rank,)) for rank in living]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in living:
        assert said[rank].startswith(f"step 4: {named} (rank {rank} saw: {LOST})")


def test_without_a_store_the_first_rank_which_holds_it_is_named(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    lost = pytest.raises(TrainingError, match=r"step 0: rank 0 died \(rank 1 saw: ")
    with lost, explained_failures(Ranks(rank=1, world_size=2, device=CPU), TrainState()):
        raise RuntimeError(LOST)
