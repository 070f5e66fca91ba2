"""A long recording, cut at its pauses by the command, trains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from speechssl.__main__ import main
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.batching import BatchConfig
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig


def test_the_parts_of_a_recording_train(tmp_path: Path, capsys, pretrain_config: Callable[..., PretrainConfig]) -> None:
    random = np.random.default_rng(0)
    time = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    speaks = (time % 3 > 1.5) * (1 + np.sin(2 * np.pi * 4 * time))  # four times a second and a half
    soundfile.write(tmp_path / "r.flac", (0.001 + 0.1 * speaks) * random.uniform(-1, 1, len(time)), SAMPLE_RATE)
    row = Utterance(id="r", path="r.flac", num_samples=len(time), sample_rate=SAMPLE_RATE, channels=1, text="all of it")
    write_manifest(tmp_path / "long.tsv", [row])
    command = ["manifest", "segment", str(tmp_path / "long.tsv"), "-o", str(tmp_path / "out.tsv"), "--vad", "energy"]
    assert main([*command, "--min-s", "1", "--max-s", "3", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "out.tsv: 4 utterances" in printed
    assert "cut by energy: 1 recordings into 4 utterances" in printed
    assert "dropped: 1 texts" in printed
    starts = [row.start / SAMPLE_RATE for row in read_manifest(tmp_path / "out.tsv").utterances]
    np.testing.assert_allclose(starts, [1.4, 4.4, 7.4, 10.4], atol=0.15)
    config = pretrain_config(
        tmp_path / "run",
        "contrastive",
        data=DataConfig(manifests=(tmp_path / "out.tsv",)),
        batch=BatchConfig(seconds=5.0, max_crop_s=1.0, min_s=0.1),
    )
    assert pretrain(config).exists()
    assert main([*command, "--min-s", "3", "--max-s", "4"]) == 2
    assert "three times as much" in capsys.readouterr().err
