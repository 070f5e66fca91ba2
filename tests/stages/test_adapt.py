"""recipes/adapt on a model that transformers saved: its steps as they stand, only smaller."""

from pathlib import Path

import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)

from speechssl.config import load
from speechssl.data.manifest import read_manifest
from speechssl.hub.saved import SavedModel
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.convert import convert
from speechssl.stages.finetune import FinetuneConfig, finetune
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.transcribe import transcribe
from speechssl.train.checkpoint import read_state
from tests.hub.models import NINE_LAYERS

RECIPE = Path(__file__).parents[2] / "recipes/adapt"
RECOGNISER = RECIPE.parent / "finetune/ctc_1h.yaml"  # with which run.sh ends
SMALLER = ("train.steps=2", "train.accumulate=1", "train.workers=0", "train.bfloat16=false")
BATCH = ("batch.seconds=20", "batch.min_s=0.1")


def saved(model: PreTrainedModel, folder: Path, *, normalize: bool) -> Path:
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    """Give a folder with the form of wav2vec 2.0 BASE, random weights, as transformers saves it."""
    return saved(Wav2Vec2ForPreTraining(Wav2Vec2Config(**NINE_LAYERS)), tmp_path / "base", normalize=False)


@pytest.fixture
def large(tmp_path):
    """Give a folder with the form of HuBERT LARGE, which wants normalised waveforms."""
    form = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    return saved(HubertModel(HubertConfig(**NINE_LAYERS, **form)), tmp_path / "large", normalize=True)


def test_a_wav2vec2_model_of_transformers_goes_on_learning_and_is_fine_tuned(base, corpus, tmp_path):
    convert(base, tmp_path / "model", "speechssl")
    start = (f"checkpoint={tmp_path}/model", f"data.manifests=[{corpus}]", *SMALLER, *BATCH)
    run = pretrain(load(RECIPE / "wav2vec2.yaml", PretrainConfig, [f"out={tmp_path}/pretrain", *start]))
    assert read_state(run).is_finished
    before, after = SavedModel.read(tmp_path / "model").tensors, SavedModel.read(run).tensors
    assert before.keys() == after.keys()
    assert 0 < (before["objective.quantizer.codebook"] - after["objective.quantizer.codebook"]).abs().max() < 0.01
    recognise(tmp_path, corpus, tmp_path / "pretrain")


def test_a_hubert_model_of_transformers_gets_units_of_its_own_and_is_fine_tuned(large, corpus, tmp_path):
    convert(large, tmp_path / "model", "speechssl")
    start = (f"checkpoint={tmp_path}/model", f"data.manifests=[{corpus}]")
    units = cluster(load(RECIPE / "units.yaml", ClusterConfig, [f"out={tmp_path}/units", *start, "clusters=5"]))
    overrides = [f"out={tmp_path}/pretrain", *start, f"labels=[{units}]", *SMALLER, *BATCH]
    run = pretrain(load(RECIPE / "hubert.yaml", PretrainConfig, overrides))
    assert read_state(run).is_finished
    assert SavedModel.read(run).description.audio.normalize is True
    recognise(tmp_path, corpus, tmp_path / "pretrain")
    assert SavedModel.read(tmp_path / "ctc").description.audio.normalize is True


def recognise(folder: Path, corpus: Path, checkpoint: Path) -> None:
    """Fine-tune as the recipe says, and transcribe with what transformers reads of it again."""
    data = (f"data.manifests=[{corpus}]", f"dev.manifests=[{corpus}]", f"checkpoint={checkpoint}", "batch.seconds=40")
    finetune(load(RECOGNISER, FinetuneConfig, [f"out={folder}/ctc", *data, *SMALLER]))
    convert(folder / "ctc", folder / "theirs", "transformers")
    found, skipped = transcribe(folder / "ctc", read_manifest(corpus))
    assert len(found) == len(read_manifest(corpus).utterances) and not skipped
    assert all(torch.isfinite(tensor).all() for tensor in SavedModel.read(folder / "ctc").tensors.values())
