"""Folders of a CTC model for CTranslate2, written by its own converter; ctranslate2 and transformers are optional.

    model.bin, config.json, vocabulary.json      CTranslate2's; `ctranslate2.models.Wav2Vec2` loads the folder
    preprocessor_config.json, vocab.json, ...    transformers' normalisation and tokenizer, which CTranslate2 lacks

CTranslate2 (tried: 4.8.5) computes one architecture, that of LARGE: layer norms in the extractor and before the blocks,
strides of 5, 2, 2, ..., a positional convolution of 128 frames and 16 groups. Its converter or its first call refuses
some others, as BASE; layer norms behind the blocks and other strides give wrong logits without a word. Here all others
are refused. HuBERT is written as wav2vec2, which computes the same. `encode` takes no lengths: pad no batch.
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.errors import CheckpointError
from speechssl.hub.names import expect_shared
from speechssl.hub.onnx import Precision
from speechssl.hub.saved import SavedModel
from speechssl.hub.transformers import write_transformers
from speechssl.model.encoder import EncoderConfig

__all__ = ["run_ctranslate2", "write_ctranslate2"]

COPIED = ["preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "vocab.json"]


def write_ctranslate2(model: SavedModel, target: Path, precision: Precision = "float32") -> dict[str, str]:
    """Write a folder for `ctranslate2.models.Wav2Vec2`.

    Args:
        model: CTC model of the architecture of LARGE.
        target: folder to write; must not exist.
        precision: of the matrices in the file; with int8 CTranslate2 computes their products in int8, too.

    Returns:
        Reasons by our name, for what was dropped: the mask vector.

    Raises:
        CheckpointError: the target exists, the model has no CTC head or an architecture that CTranslate2 refuses or
            gets wrong, or a package is not installed.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name another folder, or remove it")
    described = model.description
    if described.ctc is None:
        raise CheckpointError("the model has no CTC head, which the toolkit needs; fine-tune it first")
    expect_shared(described.encoder, "CTranslate2")
    _expect_large(described.encoder, model.name)
    converters = _package("ctranslate2.converters")
    _package("transformers")
    with TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / "model"
        write_transformers(replace(model, description=replace(described, family="wav2vec2")), folder)
        try:
            converter = converters.TransformersConverter(str(folder), copy_files=COPIED)
            converter.convert(str(target), quantization=precision)
        except Exception as error:  # its exceptions have no common base class
            raise CheckpointError(
                f"{model.name}: CTranslate2 cannot convert it ({error}); convert to onnx instead"
            ) from error
    found = json.loads((target / "vocabulary.json").read_text(encoding="utf-8"))
    if tuple(found) != described.vocabulary:
        raise CheckpointError(
            f"{model.name}: CTranslate2 wrote the vocabulary {found[:8]}, expected {[*described.vocabulary[:8]]}; "
            "please report this"
        )
    return {"encoder.mask_vector": "nothing is masked at inference"}


def run_ctranslate2(folder: Path, waveform: Tensor) -> Tensor:
    """Run a folder of `write_ctranslate2` in CTranslate2 on the CPU, on one utterance.

    Args:
        folder: the folder.
        waveform: (time,) at 16 kHz, normalised if the model wants it.

    Returns:
        (frames, vocab) logits.

    Raises:
        CheckpointError: CTranslate2 is not installed, or cannot read the folder.
    """
    ctranslate2 = _package("ctranslate2")
    try:
        model = ctranslate2.models.Wav2Vec2(str(folder), intra_threads=torch.get_num_threads())
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read by CTranslate2 ({error}); write it again") from error
    inputs = ctranslate2.StorageView.from_array(waveform[None, None].float().numpy())  # (batch, 1, time)
    return torch.from_numpy(np.array(model.encode(inputs, to_cpu=True)))[0]


def _expect_large(config: EncoderConfig, name: str) -> None:
    """Raise CheckpointError if an encoder has settings that CTranslate2 does not compute."""
    strides = tuple(stride for _, _, stride in config.conv)
    settings = {  # found, expected
        "encoder.conv_norm": (config.conv_norm, "layer"),
        "encoder.conv_bias": (config.conv_bias, True),
        "strides of encoder.conv": (strides, (5, *[2] * (len(strides) - 1))),
        "encoder.transformer.norm": (config.transformer.norm, "pre"),
        "encoder.transformer.position_kernel": (config.transformer.position_kernel, 128),
        "encoder.transformer.position_groups": (config.transformer.position_groups, 16),
    }
    wrong = [f"{key}={found} instead of {wanted}" for key, (found, wanted) in settings.items() if found != wanted]
    if wrong:
        raise CheckpointError(
            f"{name}: has {', '.join(wrong)}; CTranslate2 computes only the architecture of LARGE, would refuse the "
            "model or give wrong logits; convert to onnx instead"
        )


def _package(name: str) -> Any:
    """Import a package that only CTranslate2's folders need."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            f"{name.partition('.')[0]} is not installed; pip install 'speechssl[ctranslate2]'"
        ) from error
