"""Training on several corpora, in text and in Parquet, with the small one favoured."""

import dataclasses

import pytest

from speechssl.data.batching import BatchConfig
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.mixing import MixConfig
from speechssl.stages.pretrain import prepare_pretraining, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.train.checkpoint import read_state


@pytest.fixture
def two(tmp_path, make_corpus):
    """Give a small corpus in text and a larger one in Parquet."""
    pytest.importorskip("pyarrow", reason="the extra `parquet`")
    small = make_corpus(tmp_path / "small", [16_000, 17_000])
    large = make_corpus(tmp_path / "large", range(12_000, 20_000, 500))
    rows = [dataclasses.replace(row, id=f"large-{row.id}") for row in read_manifest(large).utterances]
    write_manifest(large.with_suffix(".parquet"), rows)
    return small, large.with_suffix(".parquet")


def test_a_run_on_a_mix_of_both_forms_goes_through_its_epochs(pretrain_config, two, tmp_path, capfd):
    batch = BatchConfig(seconds=4.0, max_crop_s=0.6, min_s=0.1, mix=MixConfig(alpha=0.0))
    config = pretrain_config(
        tmp_path / "run", data=DataConfig(manifests=two), batch=batch, labels=(), objective=ContrastiveConfig()
    )
    state = read_state(pretrain(config))
    assert state.is_finished
    said = capfd.readouterr().err
    assert f"data: {two[0]} 0.00 h x 4.3, {two[1]} 0.00 h x 0.57; an epoch: " in said
    crops = [crop.index for batch in prepare_pretraining(config).sampler.epoch(1) for crop in batch]
    assert sum(index < 2 for index in crops) == len(crops) - sum(index < 2 for index in crops) == 9
