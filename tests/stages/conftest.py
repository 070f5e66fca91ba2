"""A corpus, units, and runs of the methods, made once."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.data.batching import BatchConfig
from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.finetune import FinetuneConfig, finetune
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.learner import TrainConfig

MASK = MaskConfig(start_prob=0.1, span=3)
OBJECTIVES = {
    "masked_prediction": MaskedPredictionConfig(mask=MASK, dim=8),
    "contrastive": ContrastiveConfig(mask=MASK, dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8)),
    "random_projection": RandomProjectionConfig(mask=MASK, codebook=CodebookConfig(entries=6, dim=3, bins=8)),
    "refined_projection": RandomProjectionConfig(  # whose targets follow the audio
        mask=MASK,
        codebook=CodebookConfig(number=2, entries=6, dim=3, bins=8, projection="pca", pca_steps=4, update="ema"),
    ),
    "teacher": TeacherConfig(form="codebooks", layers=2, mask=MASK, codebooks=OnlineCodebookConfig(entries=4)),
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Path]) -> Path:
    """Give the manifest of eight transcribed utterances."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def cluster_config(corpus: Path) -> Callable[..., ClusterConfig]:
    """Give a function that makes a configuration of five MFCC units."""

    def make(out: Path, **changes: object) -> ClusterConfig:
        data = DataConfig(manifests=(corpus,))
        return dataclasses.replace(ClusterConfig(out=out, data=data, clusters=5, iterations=5), **changes)

    return make


@pytest.fixture(scope="session")
def units(tmp_path_factory: pytest.TempPathFactory, cluster_config: Callable[..., ClusterConfig]) -> Path:
    """Give the label file of five MFCC units."""
    return cluster(cluster_config(tmp_path_factory.mktemp("units") / "run"))


@pytest.fixture(scope="session")
def pretrain_config(corpus: Path, units: Path, tiny_encoder: EncoderConfig) -> Callable[..., PretrainConfig]:
    """Give a function that makes a configuration of a run of three steps with any method."""

    def make(out: Path, kind: str = "masked_prediction", **changes: object) -> PretrainConfig:
        config = PretrainConfig(
            out=out,
            data=DataConfig(manifests=(corpus,)),
            labels=(units,) if kind == "masked_prediction" else (),
            encoder=tiny_encoder,
            objective=OBJECTIVES[kind],
            batch=BatchConfig(seconds=3.0, max_crop_s=0.6, min_s=0.1),
            train=TrainConfig(steps=3, log_every=1),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, pretrain_config: Callable[..., PretrainConfig]) -> Path:
    """Give the folder of a run with masked prediction."""
    return pretrain(pretrain_config(tmp_path_factory.mktemp("pretrained") / "run")).parent


@pytest.fixture(scope="session")
def pretrained_on_log_mel(
    tmp_path_factory: pytest.TempPathFactory,
    pretrain_config: Callable[..., PretrainConfig],
    log_mel_encoder: EncoderConfig,
) -> Path:
    """Give the folder of a run with masked prediction whose encoder has log-mel input."""
    folder = tmp_path_factory.mktemp("log_mel") / "run"
    return pretrain(pretrain_config(folder, encoder=log_mel_encoder)).parent


@pytest.fixture(scope="session")
def finetune_config(corpus: Path, pretrained: Path) -> Callable[..., FinetuneConfig]:
    """Give a function that makes a configuration of a CTC run of three steps."""

    def make(out: Path, **changes: object) -> FinetuneConfig:
        config = FinetuneConfig(
            out=out,
            checkpoint=pretrained,
            data=DataConfig(manifests=(corpus,)),
            ctc=CTCConfig(mask=MASK, freeze_steps=1, channel_mask=MaskConfig(start_prob=0.05, span=4)),
            train=TrainConfig(steps=3, log_every=1),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory, finetune_config: Callable[..., FinetuneConfig]) -> Path:
    """Give the folder of a CTC run."""
    return finetune(finetune_config(tmp_path_factory.mktemp("finetuned") / "run")).parent


@pytest.fixture(scope="session")
def finetuned_on_log_mel(
    tmp_path_factory: pytest.TempPathFactory,
    finetune_config: Callable[..., FinetuneConfig],
    pretrained_on_log_mel: Path,
) -> Path:
    """Give the folder of a CTC run whose encoder has log-mel input."""
    folder = tmp_path_factory.mktemp("finetuned_on_log_mel") / "run"
    return finetune(finetune_config(folder, checkpoint=pretrained_on_log_mel)).parent
