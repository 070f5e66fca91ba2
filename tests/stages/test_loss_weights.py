"""Weights of utterances in fine-tuning: speechssl.stages.loss_weights."""

import dataclasses

import numpy as np
import pytest
import torch

from speechssl.config import to_dict, to_stored
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.mixing import MixConfig
from speechssl.errors import ManifestError
from speechssl.stages.finetune import finetune, prepare_finetuning
from speechssl.stages.loss_weights import loss_weights
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.train.checkpoint import last_checkpoint, read_parameters

BATCH = BatchConfig(seconds=2.0, max_crop_s=None, min_s=0.1)


@pytest.fixture
def table(corpus, tmp_path):
    """Give a function that writes a table of the weights of a corpus, in its order, and returns its path."""

    def write(weights):
        rows = read_manifest(corpus).utterances
        pairs = zip(rows, weights, strict=False)
        path = tmp_path / "weights.tsv"
        path.write_text("id\tweight\n" + "".join(f"{row.id}\t{weight}\n" for row, weight in pairs))
        return path

    return write


def test_weights_have_the_mean_1_over_the_utterances_in_batches(corpus, table):
    rows = read_manifest(corpus).utterances
    sampler = BatchSampler(rows, dataclasses.replace(BATCH, min_s=0.6), seed=0)  # two are shorter
    found = loss_weights(table([9, 9, 1, 1, 1, 1, 0, 2]), rows, sampler)
    assert [found[row.id] for row in rows] == [1, 1, 1, 1, 1, 1, 0, 2]


def test_an_utterance_that_comes_more_often_counts_more_often(corpus, table, tmp_path):
    rows = read_manifest(corpus)
    for name, part in (("few", rows.utterances[:2]), ("many", rows.utterances[2:])):
        write_manifest(tmp_path / f"{name}.tsv", part, root=str(rows.root))
    data = read_data(DataConfig(manifests=(tmp_path / "few.tsv", tmp_path / "many.tsv")))
    sampler = BatchSampler(data.utterances, dataclasses.replace(BATCH, mix=MixConfig(alpha=0.0)), seed=0)
    found = loss_weights(table([1, 1, *[0.5] * 6]), data.utterances, sampler)
    drawn = [data.utterances[crop.index].id for epoch in range(200) for batch in sampler.epoch(epoch) for crop in batch]
    assert np.mean([found[key] for key in drawn]) == pytest.approx(1, abs=0.01)
    assert found[rows.utterances[0].id] == 2 * found[rows.utterances[2].id]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "6 training utterances have no weight: u0002, u0003, u0004; add a row"),
        ([1, -1, *[1] * 6], "the weight of u0001 is '-1', expected a number of 0 or more"),
        ([1, "nan", *[1] * 6], "the weight of u0001 is 'nan'"),
        ([1, "much", *[1] * 6], "the weight of u0001 is 'much'"),
        ([1, "inf", *[1] * 6], "the weight of u0001 is 'inf'"),
        ([0] * 8, "all weights are 0"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(corpus, table, weights, message):
    rows = read_manifest(corpus).utterances
    with pytest.raises(ManifestError, match=message):
        loss_weights(table(weights), rows, BatchSampler(rows, BATCH, seed=0))


def test_rows_of_other_utterances_are_counted(corpus, table, capsys):
    rows = read_manifest(corpus).utterances
    path = table([1] * 8)
    with path.open("a") as file:
        file.write("other\t3\n")
    assert set(loss_weights(path, rows, BatchSampler(rows, BATCH, seed=0)).values()) == {1.0}
    assert "1 rows belong to no training utterance" in capsys.readouterr().err


def test_batches_carry_the_weights_of_their_utterances(finetune_config, table, tmp_path):
    prepared = prepare_finetuning(finetune_config(tmp_path / "run", weights=table([1, 1, 1, 1, 1, 1, 1, 3])))
    batch = prepared.dataset.batch(prepared.sampler.epoch(0)[0])
    assert batch.weights.tolist() == pytest.approx([2.4 if key == "u0007" else 0.8 for key in batch.ids])
    assert prepared.dataset.stand_in().weights.tolist() == [1]


def test_equal_weights_train_as_none_and_an_older_record_lacks_the_key(finetune_config, table, tmp_path):
    plain, weighted = finetune_config(tmp_path / "plain"), finetune_config(tmp_path / "same", weights=table([5] * 8))
    same, other = ([*read_parameters(finetune(config)).values()] for config in (plain, weighted))
    assert all(torch.equal(*pair) for pair in zip(same, other, strict=True))
    assert "weights" in to_dict(plain)
    assert "weights" not in to_stored(plain)
    assert last_checkpoint(tmp_path / "same") is not None


def test_an_utterance_of_weight_0_does_not_count(finetune_config, table, tmp_path):
    weights = [0, 1, 1, 1, 1, 1, 1, 1]
    one = prepare_finetuning(finetune_config(tmp_path / "one", weights=table(weights)))
    batch = one.dataset.batch([crop for crops in one.sampler.epoch(0) for crop in crops])
    assert dict(zip(batch.ids, batch.weights.tolist(), strict=True))["u0000"] == 0
