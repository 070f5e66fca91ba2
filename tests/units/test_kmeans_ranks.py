"""Two processes, each with its own shards, find the same centroids as one process."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from speechssl.units.feature_shards import ShardPoints, write_shards
from speechssl.units.kmeans import KMeans

WORKER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from speechssl.parallel import start_ranks
from speechssl.units.kmeans import KMeans
from speechssl.units.feature_shards import ShardPoints

torch.set_num_threads(1)
ranks = start_ranks()
folder = Path(sys.argv[1])
for name in ("nested", "lloyd", "standardised", "resumed"):
    algorithm = "lloyd" if name == "lloyd" else "nested"
    kmeans = KMeans(n_clusters=12, algorithm=algorithm, standardise=name == "standardised", sample_bytes=16_000)
    points = ShardPoints(folder / "features", rank=ranks.rank, world_size=ranks.world_size)
    if name == "resumed":
        try:
            def stop(step):
                if step.iteration == 4:
                    raise InterruptedError
            kmeans.fit(points, ranks=ranks, unfinished=folder / "unfinished", report=stop)
        except InterruptedError:
            pass
        ranks.wait()
    kmeans.fit(points, ranks=ranks, unfinished=folder / "unfinished")
    kmeans.save(folder / f"{name}{ranks.rank}")
distributed.destroy_process_group()
"""
NAMES = ("nested", "lloyd", "standardised", "resumed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder with features and the k-means that two processes fitted to them."""
    folder = tmp_path_factory.mktemp("ranks")
    centres = 10 * torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(12, 400, 4, generator=torch.Generator().manual_seed(1))
    write_shards(folder / "features", [(centres + noise).flatten(0, 1)], dtype="float32", rows_per_shard=1700)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    everyone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(folder)],
            env=os.environ | everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=180)
        assert worker.returncode == 0, said
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_find_what_one_finds(folder, name):
    algorithm = "lloyd" if name == "lloyd" else "nested"
    alone = KMeans(n_clusters=12, algorithm=algorithm, standardise=name == "standardised", sample_bytes=16_000)
    alone.fit(ShardPoints(folder / "features"))
    first, second = (KMeans.load(folder / f"{name}{rank}") for rank in range(2))
    assert first.fingerprint == second.fingerprint
    torch.testing.assert_close(first.cluster_centers_, alone.cluster_centers_, rtol=1e-4, atol=1e-4)
    assert first.counts_.tolist() == alone.counts_.tolist()
    assert first.inertia_ == pytest.approx(alone.inertia_, rel=1e-5)


def test_an_interrupted_fit_of_two_processes_ends_as_if_it_had_not_been(folder):
    whole, resumed = (KMeans.load(folder / f"{name}0") for name in ("nested", "resumed"))
    assert resumed.fingerprint == whole.fingerprint
    assert not (folder / "unfinished").exists()
