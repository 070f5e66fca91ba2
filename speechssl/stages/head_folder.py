"""A trained head on disk, and its predictions for any audio.

folder/head.json           a `HeadDescription`: task, classes, and the features it reads
folder/head.safetensors    its weights
folder/encoder/, or folder/lora.safetensors: an encoder that learned with it, see `head_encoder`
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.atomic import atomic, write_atomically
from speechssl.audio.reading import AudioConfig
from speechssl.config import configuration, from_dict, to_stored
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import CheckpointError
from speechssl.hub.model_formats import read_saved
from speechssl.model.lora import LoraConfig
from speechssl.parallel import pick_device
from speechssl.stages.feature_source import (
    FRONT_ENDS,
    ExtractConfig,
    FeatureSource,
    extract,
    front_end,
    joined,
    trunk,
    with_layer_norm,
)
from speechssl.stages.head_encoder import read_adapted, read_whole, with_random_weights
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.tuning_config import EncoderUse
from speechssl.tasks.head_registry import AnyHeadConfig, head_of
from speechssl.tasks.heads import Head, HeadNetwork, HeadSizes

__all__ = ["DESCRIPTION", "HeadDescription", "LoadedHead", "load_head", "read_head", "write_head"]

DESCRIPTION = "head.json"
PARAMETERS = "head.safetensors"
VERSION = 1


@configuration
class HeadDescription:
    """A head and the features that it reads."""

    version: int = VERSION
    task: AnyHeadConfig
    classes: tuple[str, ...]  # empty for values
    mean: float = 0.0  # of the training set's values
    std: float = 1.0
    layers: tuple[int, ...]  # counted from 1; 0: the input of the first layer, or the only one of a front end
    dim: int
    hop: int  # samples from one frame to the next
    window: int  # samples in the window of one frame
    model: str  # mfcc, log_mel, or the model as the recipe named it
    fingerprint: str | None = None  # hash of the model's parameters
    random_weights: int | None = None  # seed of random weights in their place
    encoder: EncoderUse = "frozen"  # all: the encoder of this folder, instead; lora: with the adapters of this folder
    lora: LoraConfig | None = None  # configuration of the adapters
    tuned: str | None = None  # hash of the parameters of that encoder, or of those adapters
    cmn: bool = False  # whether the mean of each utterance is subtracted from MFCC or log-mel
    audio: AudioConfig = AudioConfig()
    extract: ExtractConfig = ExtractConfig()
    seed: int  # of the initial weights and the order of the data
    step: int  # steps of training
    dev: dict[str, float] = field(default_factory=dict)  # scores on the dev set that are defined for it

    @property
    def sizes(self) -> HeadSizes:
        """The sizes of the network."""
        return HeadSizes(
            layers=len(self.layers),
            dim=self.dim,
            outputs=len(self.classes) or 1,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True, kw_only=True)
class LoadedHead:
    """A head with the source of its features."""

    description: HeadDescription
    head: Head
    network: HeadNetwork
    source: FeatureSource

    def predict(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Predict for waveforms, each alone.

        Args:
            waveforms: (time,) float32 at 16 kHz, each at least `description.window` samples, as `audio` reads them.

        Returns:
            (classes,) or (frames, classes) probabilities, or a () value, for each.
        """
        each = ([layers for _, layers in self.source.compute([waveform])] for waveform in waveforms)
        return [self._predicted([torch.cat(parts) for parts in zip(*pieces, strict=True)]) for pieces in each]

    def predict_manifest(
        self, data: DataConfig, manifest: Manifest, *, title: str = "predictions"
    ) -> Iterator[tuple[Utterance, Tensor]]:
        """Yield utterances with their predictions; bad audio stops, or is reported and skipped, as `data` says.

        Raises:
            AudioError: a file cannot be used.
        """
        for row, layers in joined(extract(self.source, data, manifest, manifest.utterances, title=title)):
            yield row, self._predicted(layers)

    @torch.no_grad()
    def _predicted(self, each: Sequence[Tensor]) -> Tensor:
        """Predict from layers x (frames, dim) of one utterance."""
        layers = torch.stack([*each])
        is_valid = torch.ones(1, layers.shape[1], dtype=torch.bool, device=layers.device)
        return self.head.predictions(self.network(layers[None].to(pick_device()), is_valid.to(pick_device())))[0].cpu()


def write_head(folder: Path, description: HeadDescription, network: HeadNetwork) -> None:
    """Write a head; the description comes last, so that an incomplete folder is not a head."""
    with atomic(folder / PARAMETERS) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, temporary
        )
    defined = {name: score for name, score in description.dev.items() if math.isfinite(score)}
    description = dataclasses.replace(description, dev=defined)
    write_atomically(folder / DESCRIPTION, json.dumps(to_stored(description), indent=1, ensure_ascii=False) + "\n")


def read_head(folder: Path) -> tuple[HeadDescription, HeadNetwork]:
    """Read a head without the model that it is for.

    Raises:
        CheckpointError: there is no head, or one of its files is broken.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        below = sorted(str(each.parent) for each in folder.rglob(DESCRIPTION))
        found = f"found {below[0]} and {len(below) - 1} more; name one of them" if below else "train one with probe"
        raise CheckpointError(f"{folder}: holds no head, which is a folder with {DESCRIPTION}; {found}")
    try:
        description = from_dict(json.loads(path.read_text(encoding="utf-8")), HeadDescription, where=str(path))
        tensors = load_file(folder / PARAMETERS)
        network = head_of(description.task).network(description.task, description.sizes)
        network.load_state_dict(tensors)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: the head cannot be read ({said:.300}); train it again") from error
    if description.version != VERSION:
        raise CheckpointError(f"{path}: is of version {description.version}, expected {VERSION}; train it again")
    return description, network.eval()


def load_head(folder: Path | str, *, model: str | None = None) -> LoadedHead:
    """Load a head and the model that it is for.

    Args:
        folder: folder of the head, `heads/NAME/seed-N` of a probe.
        model: the model, if it has moved since; a head with an encoder of its own (`encoder=all`) needs none.

    Raises:
        CheckpointError: there is no head, or the model is another one, or the head needs none.
    """
    description, network = read_head(Path(folder))
    data = DataConfig(manifests=(), audio=description.audio)
    named = model or description.model
    if description.fingerprint is None:
        source = front_end(FRONT_ENDS[description.model], description.audio, cmn=description.cmn)
    elif description.encoder == "all":
        if model is not None:
            raise CheckpointError(
                f"{folder}: the head has an encoder of its own, which learned with it, and would not fit {model}; "
                "leave out --model"
            )
        source = trunk(read_whole(Path(folder), known=description.tuned), description.layers, data, description.extract)
    else:
        saved = read_saved(named)
        if saved.fingerprint() != description.fingerprint:
            raise CheckpointError(
                f"{folder}: the head is for a model with the fingerprint {description.fingerprint}, {named} has "
                f"{saved.fingerprint()}; name the model it was trained on with --model"
            )
        seed = description.random_weights
        if description.lora is not None:
            start = saved if seed is None else with_random_weights(saved, seed)
            saved, seed = read_adapted(Path(folder), start, description.lora, known=description.tuned), None
        source = trunk(saved, description.layers, data, description.extract, untrained_seed=seed)
    if description.task.layer_norm:
        source = with_layer_norm(source)
    return LoadedHead(
        description=description,
        head=head_of(description.task),
        network=network.to(pick_device()),
        source=source,
    )
