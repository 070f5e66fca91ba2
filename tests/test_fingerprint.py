"""Stored fingerprints of checkpoints, labels, caches and records stay valid: one literal digest of each kind.

A change of any of them makes files of earlier versions strange to this one: labels seem to be of another k-means, runs
and caches begin anew.
"""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import speechssl
from speechssl.corpus.fetch.splits import SplitRule, lists_digest, ruled_splits
from speechssl.corpus.hashing import place_of
from speechssl.corpus.workers import PartWritten, chosen_work, one_by_one
from speechssl.data.batching import BatchConfig, BatchSampler, seeded_generator
from speechssl.data.fairseq_labels import read_km
from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.data.mixing import MixConfig
from speechssl.data.utterances import Manifest, Utterance
from speechssl.hub.saved import SavedModel
from speechssl.stages import extract
from speechssl.stages.feature_source import provenance
from speechssl.stages.posteriors import PosteriorConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.record import Inputs, RunRecord, content_hash
from speechssl.stages.tune import cached_posteriors
from speechssl.train.checkpoint import publish
from speechssl.units.kmeans import KMeans
from speechssl.units.lloyd import FitFile

ROWS = tuple(
    Utterance(
        id=f"ü{i}", path=f"a/ü{i}.wav", num_samples=40_000 + 4_000 * i, sample_rate=16_000, channels=1, language=x
    )
    for i, x in enumerate(("et", "nl", "nl"))
)
POINTS = torch.arange(6.0).reshape(3, 2) / 7


def test_nothing_else_hashes_by_hand():
    sources = Path(speechssl.__file__).parent
    found = {}
    for path in sources.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        if hashing := names & {"hashlib", "xxhash"}:
            found[path.relative_to(sources).as_posix()] = hashing
    assert found == {"fingerprint.py": {"hashlib"}, "corpus/check/levels.py": {"xxhash"}}  # of samples, in memory alone


def sampled(alpha: float) -> str:
    return BatchSampler(ROWS, BatchConfig(mix=MixConfig(alpha=alpha, by="language")), seed=0).fingerprint


def test_the_order_and_crops_of_batches():
    assert sampled(1.0) == "48c135575542d245"
    assert sampled(0.5) == "e1d5602cc42d22c2"


def test_draws_that_follow_from_a_key():
    assert seeded_generator(3, "order", 1).initial_seed() == 5945052062960816290
    assert (place_of("ü"), place_of("ü", "salt")) == (0.6988074619432408, 0.7358902135378582)
    texts = [
        Utterance(id=f"{i}", path="x", num_samples=60 * 16_000, sample_rate=16_000, channels=1, text=f"ü{i}")
        for i in range(6)
    ]
    rule = SplitRule(minutes=(("train", 4), ("test", 99)))
    assert [row.id for row in ruled_splits(texts, rule)["train"]] == ["0", "1", "2", "4"]


def test_the_parameters_of_a_model():
    tensors = {"b": POINTS.T, "a.weight": torch.tensor(2, dtype=torch.int64), "half": POINTS.half()}
    saved = SavedModel(name="x", description=None, tensors=tensors)
    assert saved.fingerprint() == "6a70bf3a8bb5ac5f"


def test_the_files_of_a_checkpoint(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/state.json").write_bytes(b"{}")
    publish(tmp_path / "new", tmp_path / "step")
    sums = json.loads((tmp_path / "step/checksums.json").read_text())
    assert sums == {"state.json": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}


def test_the_centroids_of_a_kmeans_and_the_points_of_an_unfinished_one():
    kmeans = KMeans(n_clusters=3)
    kmeans.cluster_centers_, kmeans.mean_, kmeans.scale_ = POINTS.T.contiguous().T, torch.zeros(2), torch.ones(2)
    assert kmeans.fingerprint == "1aee2d83bb201ff0"
    fit = FitFile.of(Path("x"), {"seed": 0, "tol": 1}, 3, POINTS)
    assert fit.identity == {"seed": 0, "num_points": 3, "points": "8ab614beab9b65e5"}
    source = SimpleNamespace(title=str, about=lambda layer: {}, hop=320)
    assert provenance(source, 1, ROWS).audio["ids"] == "cb1bdfb4c63e78e3"


def test_frame_labels(tmp_path):
    source = LabelSource(clusters=9, hop=320, window=400, kmeans="k", features="mfcc", settings={"ü": 1, "a": "x"})
    labels = FrameLabels(source=source, units={"ü": np.array([1, 8]), "b": np.array([], np.int16)})
    assert labels.fingerprint() == "316a36e8d76f0b2a"
    (tmp_path / "x.km").write_text("1 2 0\n")
    manifest = Manifest(
        root=tmp_path, utterances=(Utterance(id="a", path="a", num_samples=1_100, sample_rate=16_000, channels=1),)
    )
    source = read_km(tmp_path / "x.km", manifest, clusters=3, rate=50).source
    assert (source.kmeans, source.settings) == (
        "imported-f33e4ee3af37194d",
        {"file": "x.km", "sha256": "f33e4ee3af37194d"},
    )


def test_the_inputs_and_outputs_of_a_step(tmp_path):
    below = tmp_path / "folder"
    (below / "ü").mkdir(parents=True)
    (below / "ü/b").write_bytes(b"b")
    (below / "a").write_bytes(b"a")
    assert (content_hash(below), content_hash(below / "a")) == ("b99888b60e3f183d", "736a6de62c2d92dd")
    record = RunRecord(tmp_path / "run")
    record.perform("step", Inputs(values={"ü": 1, "a": [None, 0.5]}), lambda: None, dict)
    assert json.loads((tmp_path / "run/record.jsonl").read_text().splitlines()[-1])["hash"] == "7528027aed1d709b"


def test_lists_and_shares_of_work(tmp_path):
    (tmp_path / "train.tsv").write_text("id\n")
    assert lists_digest(tmp_path) == "1f4c6f48230f3839b15323f6c9d12f42"
    manifest = Manifest(root=tmp_path, utterances=ROWS)
    assert extract.about_manifest(DataConfig(manifests=()), manifest)["hash"] == "85c908a8c90ff15698f14342fb6a447e"
    work = chosen_work(one_by_one, one_by_one, "local", "1/1", tmp_path / "parts", about="about", kinds={})
    with pytest.raises(PartWritten):
        work(["ü", 2], str)
    assert '"508ccc73706e9be6802d44eb65618e20"' in (tmp_path / "parts/1-of-1.jsonl").read_text()


@pytest.mark.parametrize(
    ("hearing", "origin"),
    [
        (None, "26a19d27e0956eabb5363a0c2e2bae66f14bbcb8c80752fec8fdd5c32e0d4a46"),
        (PosteriorConfig(window_s=30.0), "543b5abd9152f0248cd5f2dcc26d182e94de0ef69b9a1f87fec2c16ae5e88d1b"),
    ],
)
def test_cached_posteriors(tmp_path, hearing, origin):
    save_file({"ü0": POINTS}, tmp_path / "kept", {"origin": origin})
    saved = SimpleNamespace(fingerprint=lambda: "f")
    kept = cached_posteriors(saved, Manifest(root=tmp_path, utterances=ROWS), tmp_path / "kept", hearing)
    assert torch.equal(kept["ü0"], POINTS)
