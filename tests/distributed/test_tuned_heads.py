"""An encoder that learns with a head learns the same on two ranks as on one with twice the batches."""

import dataclasses

import torch
import yaml
from safetensors.torch import load_file

from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages.head_probe import train_probes
from speechssl.stages.probe_config import ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.tuning_config import TuningConfig
from speechssl.tasks.utterance_values import UtteranceValuesConfig
from speechssl.train.learner import TrainConfig
from tests.distributed.launching import torchrun


def test_two_ranks_write_the_head_of_one(tmp_path, make_corpus, tiny_encoder):
    torch.manual_seed(0)
    trunk = SpeechEncoder(tiny_encoder)
    tensors = {f"encoder.{name}": tensor for name, tensor in trunk.state_dict().items()}
    SavedModel(description=Description(encoder=tiny_encoder), tensors=tensors, name="model").write(tmp_path / "model")
    train = TrainConfig(steps=3, eval_every=2, save_every=3, accumulate=2)
    config = ProbeConfig(
        out=tmp_path / "one",
        task=UtteranceValuesConfig(column="duration_s", projector=4),
        data=DataConfig(manifests=(make_corpus(tmp_path / "corpus"),)),
        split=SplitRule(by="id", dev=0.2, test=0.3),
        shared_speakers=True,
        checkpoint=str(tmp_path / "model"),
        encoder=("all", "lora"),
        tuning=TuningConfig(batch=BatchConfig(seconds=4.0, max_crop_s=None, min_s=0.0), train=train, freeze_steps=1),
        seeds=(0,),
    )
    two = dataclasses.replace(
        config,
        out=tmp_path / "two",
        tuning=dataclasses.replace(config.tuning, train=dataclasses.replace(train, accumulate=1)),
    )
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(to_dict(two)))
    done = torchrun("-m", "speechssl", "probe", tmp_path / "two.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    train_probes(config)
    for number, file in ((0, "encoder/model.safetensors"), (0, "head.safetensors"), (1, "lora.safetensors")):
        ours, theirs = (
            load_file(next((tmp_path / name / "heads").glob(f"{number}-*")) / "seed-0" / file)
            for name in ("two", "one")
        )
        for name, tensor in theirs.items():
            torch.testing.assert_close(
                ours[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda said, at=name: f"{at}: {said}"
            )
    rows = [len((tmp_path / name / "probe.md").read_text().splitlines()) for name in ("two", "one")]
    assert rows[0] == rows[1]
