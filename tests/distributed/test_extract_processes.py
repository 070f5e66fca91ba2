"""Two processes of torchrun write the same feature files as one."""

from pathlib import Path

import pytest
import torch
import yaml

from speechssl.config import to_dict
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import ExtractConfig
from speechssl.stages.reading_data import DataConfig
from tests.distributed.launching import torchrun

WORKER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from speechssl.config import load
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features

torch.set_num_threads(1)
for recipe in sys.argv[1:]:
    extract_features(load(Path(recipe), ExtractFeaturesConfig))
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_corpus, tiny_encoder) -> dict[str, tuple[Path, Path]]:
    """Return the folders of two processes and of one, for each format."""
    folder = tmp_path_factory.mktemp("extract")
    data = DataConfig(manifests=(make_corpus(folder / "corpus"),))
    torch.manual_seed(0)
    trunk = SpeechEncoder(tiny_encoder)
    tensors = {f"encoder.{name}": tensor for name, tensor in trunk.state_dict().items()}
    SavedModel(description=Description(encoder=tiny_encoder), tensors=tensors, name="model").write(folder / "model")
    (folder / "worker.py").write_text(WORKER)
    configs = {
        form: ExtractFeaturesConfig(
            out=folder / form,
            data=data,
            model=str(folder / "model"),
            layers="all",
            format=form,
            part_s=1.5,
            extract=ExtractConfig(window_s=0.8, overlap_s=0.2, batch_s=1.2),
        )
        for form in ("npy", "shards", "safetensors")
    }
    for form, config in configs.items():
        (folder / f"{form}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    done = torchrun(folder / "worker.py", *(folder / f"{form}.yaml" for form in configs))
    assert done.returncode == 0, done.stderr
    two = {form: config.out.rename(folder / f"{form}-two") for form, config in configs.items()}
    return {form: (two[form], extract_features(config)) for form, config in configs.items()}


@pytest.mark.parametrize("form", ["npy", "shards", "safetensors"])
def test_two_processes_write_the_folder_of_one(folders, form):
    two, one = folders[form]
    files = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file() and path.name != ".lock"]
    assert len(files) > 4
    assert sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file() and path.name != ".lock") == files
    assert all((two / path).read_bytes() == (one / path).read_bytes() for path in files)
