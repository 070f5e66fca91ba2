"""Two processes give the same labels as one: the same centroids, the same label file."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechssl.config import to_dict
from speechssl.data.labels import read_labels
from speechssl.features.feature_folder import FeatureFolder
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.feature_source import ExtractConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.units.feature_shards import ShardPoints

WORKER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from speechssl.config import load
from speechssl.parallel import start_ranks
from speechssl.stages.cluster import ClusterConfig, cluster

torch.set_num_threads(1)
start_ranks()
for recipe in sys.argv[1:]:
    cluster(load(Path(recipe), ClusterConfig))
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_corpus, tiny_encoder) -> dict[str, Path]:
    """Return the folders of runs of two processes, and beside each, with `-one` in its name, that of one process."""
    folder = tmp_path_factory.mktemp("cluster")
    data = DataConfig(manifests=(make_corpus(folder / "corpus"),))
    torch.manual_seed(0)
    trunk = SpeechEncoder(tiny_encoder)
    tensors = {f"encoder.{name}": tensor for name, tensor in trunk.state_dict().items()}
    SavedModel(description=Description(encoder=tiny_encoder), tensors=tensors, name="model").write(folder / "model")
    mfcc = ClusterConfig(out=folder / "mfcc", data=data, clusters=5, iterations=5, fit_frames=300, cmn=True)
    layer = dataclasses.replace(
        mfcc,
        out=folder / "layer",
        features="layer",
        layer=2,
        checkpoint=folder / "model",
        cmn=False,
        dump="float32",
        extract=ExtractConfig(window_s=0.8, overlap_s=0.2, batch_s=2.0),
    )
    given = dataclasses.replace(mfcc, out=folder / "given", kmeans=folder / "mfcc/kmeans.safetensors")
    configs = [mfcc, layer, given]
    for config in configs:
        (folder / f"{config.out.name}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    everyone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    everyone |= {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    recipes = [str(folder / f"{config.out.name}.yaml") for config in configs]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, *recipes],
            env=os.environ | everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said
    for config in configs:
        cluster(dataclasses.replace(config, out=folder / f"{config.out.name}-one"))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["mfcc", "given"])
def test_two_processes_write_the_files_of_one(runs, name):
    for file in ("kmeans.safetensors", "labels.tsv"):
        assert (runs[name] / file).read_bytes() == (runs[f"{name}-one"] / file).read_bytes()
    assert not (runs[name] / "parts").exists()


def test_batches_of_other_company_give_the_same_units_of_a_layer(runs):
    two, one = (read_labels(runs[name] / "labels.tsv").units for name in ("layer", "layer-one"))
    assert list(two) == list(one)
    together = [np.concatenate(list(units.values())) for units in (two, one)]
    assert (together[0] == together[1]).mean() > 0.99
    assert len(set(together[0].tolist())) == 5


def test_the_features_of_two_processes_are_one_folder(runs):
    two, one = (runs[name] / "features" for name in ("layer", "layer-one"))
    assert (two / "index.tsv").read_bytes() == (one / "index.tsv").read_bytes()
    assert (two / "layer_2/00000.rows").read_bytes() == (one / "layer_2/00000.rows").read_bytes()
    assert len(ShardPoints(two / "layer_2")) == FeatureFolder(two).description.frames
