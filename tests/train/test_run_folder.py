"""One run a folder, one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechssl.data.texts import TextConfig
from speechssl.errors import CheckpointError, ConfigError
from speechssl.parallel import Ranks
from speechssl.stages.data import DataConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.train.run_folder import hold_run_folder, locked

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
HOLDER = """
import os, sys, time
from pathlib import Path
from speechssl.train.run_folder import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that reads audio, which may outlive a killed run
        time.sleep(3)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Give a process that holds the lock of a run folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_number_of_the_first_until_that_is_killed(tmp_path, holder):
    message = rf"run: process {holder.pid} on .* works in this folder; wait for its end"
    with pytest.raises(CheckpointError, match=message), locked(tmp_path / "run"):
        pytest.fail("two processes in one folder")
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):  # though a child of it still lives
        pass


def test_a_folder_is_free_again_after_its_block(tmp_path):
    config = PretrainConfig(out=tmp_path / "run", data=DataConfig(manifests=(Path("a.tsv"),)))
    for _ in range(2):
        with hold_run_folder(config.out, config, ALONE):
            assert (config.out / "config.json").exists()


def test_a_run_begun_with_a_word_that_is_no_language_goes_on_without_and_begins_no_more(tmp_path):
    data = DataConfig(manifests=(Path("a.tsv"),))
    config = FinetuneConfig(out=tmp_path / "run", checkpoint=tmp_path, data=data)
    with hold_run_folder(config.out, config, ALONE):
        path = config.out / "config.json"
        path.write_text(path.read_text(encoding="utf-8").replace('"language": null', '"language": "English"'))
    with hold_run_folder(config.out, config, ALONE):
        pass
    with pytest.raises(ConfigError, match=r"text\.language: 'English' .*; a run begun with it goes on with null"):
        TextConfig(language="English")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = r"file/run: cannot be written \(Not a directory\); name another out"
    with pytest.raises(CheckpointError, match=message), locked(tmp_path / "file" / "run"):
        pytest.fail("locked what cannot be written")
