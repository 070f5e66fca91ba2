"""A model on disk: what it is (`model.json`) and its parameters (safetensors). Never a pickle.

    folder/model.json                        a `Description`
    folder/model.safetensors                 parameters of a converted model, or
    folder/step_00001000/model.safetensors   those of a training run, or shares of it, see `train.checkpoint`

A run folder is a model folder: what reads one reads the other, and needs no other file to do so.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speechssl import fingerprint
from speechssl.atomic import atomic, write_atomically
from speechssl.audio.reading import AudioConfig
from speechssl.config import configuration, from_dict, to_dict
from speechssl.data.labels import LabelSource
from speechssl.errors import CheckpointError, LabelError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.lora import merged_tensors
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import ObjectiveConfig, task_of
from speechssl.tasks.task import DataSizes, Task
from speechssl.text.phones import lexicon_lines, parse_lexicon
from speechssl.text.policy import TextConfig, with_known_language
from speechssl.text.vocabulary import Vocabulary, WrittenIn
from speechssl.text.writing import WritingConfig
from speechssl.train.checkpoint import DESCRIPTION, fill, last_checkpoint, read_parameters, read_state, run_folder

__all__ = [
    "Description",
    "SavedModel",
    "build_model",
    "check_units",
    "checkpoint_of",
    "describe_model",
    "read_description",
    "vocabulary_of_run",
    "without_values",
]

PARAMETERS = "model.safetensors"
Model = TypeVar("Model", bound=nn.Module)


@configuration
class Description:
    """What a model is: enough to build it, and to feed it what it was trained on."""

    encoder: EncoderConfig
    objective: ObjectiveConfig | None = None  # of a pretrained model that kept its head
    clusters: tuple[int, ...] = ()  # units of each label stream, of masked prediction
    classes: tuple[str, ...] = ()  # of utterances, by number, that its head tells apart
    labels: tuple[LabelSource, ...] = ()  # what made the labels of each stream, where that is known
    ctc: CTCConfig | None = None  # of a fine-tuned model
    vocabulary: tuple[str, ...] = ()  # of its CTC head, by id
    written_in: WrittenIn = "letters"  # what the tokens of the vocabulary are
    text: TextConfig = TextConfig()  # what its training texts went through, and all others do
    lexicon: tuple[str, ...] = ()  # a word, a tab and its phones each, where the tokens are phones
    piece_scores: tuple[float, ...] = ()  # log-probabilities of the tokens behind the blank, where they are pieces
    writing: WritingConfig = WritingConfig()  # how its tokens are written out as texts
    audio: AudioConfig = AudioConfig()  # how its audio was read; inference reads alike
    family: str | None = None  # method that pretrained a trunk without its objective
    origin: str = "speechssl"  # or the format and file it was converted from

    def __post_init__(self) -> None:
        if (self.ctc is None) != (not self.vocabulary) or (self.ctc is not None and self.objective is not None):
            raise CheckpointError("expected an objective, or ctc with its vocabulary, or neither")
        if self.written_in == "pieces" and len(self.piece_scores) != len(self.vocabulary) - 1:
            raise CheckpointError(
                f"expected a score for each of {len(self.vocabulary) - 1} pieces, found {len(self.piece_scores)}"
            )
        if self.labels and tuple(source.clusters for source in self.labels) != self.clusters:
            raise CheckpointError(f"expected labels with {self.clusters} units, found {[*map(str, self.labels)]}")

    @classmethod
    def of_recogniser(
        cls,
        encoder: EncoderConfig,
        ctc: CTCConfig,
        vocabulary: Vocabulary,
        *,
        audio: AudioConfig,
        family: str | None,
    ) -> Self:
        """Describe a CTC model with all that its vocabulary needs."""
        return cls(
            encoder=encoder,
            ctc=ctc,
            vocabulary=vocabulary.tokens,
            written_in=vocabulary.written_in,
            text=vocabulary.text,
            lexicon=lexicon_lines(vocabulary.lexicon),
            piece_scores=tuple(vocabulary.scores[piece] for piece in vocabulary.tokens[1:] if vocabulary.scores),
            writing=vocabulary.writing,
            audio=audio,
            family=family,
        )

    def speller(self) -> Vocabulary:
        """Return the vocabulary, with all it needs to encode and decode."""
        scores = dict(zip(self.vocabulary[1:], self.piece_scores, strict=True)) if self.piece_scores else {}
        lexicon = parse_lexicon(self.lexicon)
        return Vocabulary(self.vocabulary, self.written_in, self.text, lexicon, scores, writing=self.writing)

    @property
    def task(self) -> Task | None:
        """The task whose head the model has; None for a trunk alone."""
        config = self.objective or self.ctc
        return None if config is None else task_of(config)

    @property
    def method(self) -> str:
        """What the parameters are: `encoder` for a trunk alone, else the method of the task."""
        return "encoder" if self.task is None else self.task.method

    @property
    def pretrained_by(self) -> str | None:
        """The method that pretrained the trunk, where it is known."""
        return self.family if self.objective is None else self.method


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model as it lies on disk: no module is built until asked for."""

    description: Description
    tensors: dict[str, Tensor]  # by the names of PretrainModel or CTCModel; those of the trunk begin with `encoder.`
    name: str  # folder and checkpoint, for messages

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a model folder, a run folder (its best step, or its last) or one of its steps.

        Adapters are merged into the projections they sit on: what is read has none.

        Raises:
            CheckpointError: no model is there, or a file of it is broken.
        """
        path = Path(path)
        folder = run_folder(path)
        if not (folder / DESCRIPTION).exists():
            raise CheckpointError(
                f"{path}: holds no {DESCRIPTION}; name the folder of a run, or convert a model of another toolkit "
                "with `speechssl convert`"
            )
        checkpoint = checkpoint_of(path)
        name = folder.name if checkpoint == folder else f"{folder.name}/{checkpoint.name}"
        description, tensors = read_description(folder / DESCRIPTION), read_parameters(checkpoint)
        if description.ctc is not None and description.ctc.lora is not None:
            tensors = merged_tensors(tensors, description.ctc.lora)
            description = dataclasses.replace(description, ctc=dataclasses.replace(description.ctc, lora=None))
        return cls(description=description, tensors=tensors, name=name)

    def write(self, folder: Path) -> None:
        """Write a model folder; the description comes last, so that a half-written folder is none.

        Raises:
            CheckpointError: the folder holds a model or a run already.
        """
        if (folder / DESCRIPTION).exists() or any(folder.glob("step_*")):
            raise CheckpointError(f"{folder}: holds a model already; name another folder, or remove it")
        with atomic(folder / PARAMETERS) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary)
        describe_model(folder, self.description)

    def encoder(self) -> SpeechEncoder:
        """Build the trunk, in evaluation mode.

        Raises:
            CheckpointError: the parameters do not fit the description.
        """
        encoder = without_values(lambda: SpeechEncoder(self.description.encoder))
        return self._filled(encoder, prefix="encoder.")

    def pretraining(self) -> PretrainModel:
        """Build trunk and objective, in evaluation mode.

        Raises:
            CheckpointError: the model has no objective, or parameters that do not fit the description.
        """
        model = without_values(lambda: build_model(self.description))
        if not isinstance(model, PretrainModel):
            raise CheckpointError(f"{self.name}: is of kind {self.description.method}, expected one with its objective")
        return self._filled(model)

    def without_head(self) -> Self:
        """Return the trunk alone."""
        described = self.description
        trunk = Description(
            encoder=described.encoder, audio=described.audio, family=described.pretrained_by, origin=described.origin
        )
        tensors = {name: tensor for name, tensor in self.tensors.items() if name.startswith("encoder.")}
        return dataclasses.replace(self, description=trunk, tensors=tensors)

    def vocabulary(self) -> Vocabulary:
        """Return what a fine-tuned model writes in, without building the model.

        Raises:
            CheckpointError: the model is not fine-tuned.
        """
        if self.description.ctc is None:
            raise CheckpointError(f"{self.name}: is of kind {self.description.method}, expected a fine-tuned one")
        return self.description.speller()

    def recogniser(self, *, shares: bool = False) -> tuple[CTCModel, Vocabulary]:
        """Build trunk and CTC head, in evaluation mode, with the vocabulary.

        Args:
            shares: take `tensors` themselves for parameters, for who only runs the model: a file is mapped, and none of
                it copied. The file must stay as it is meanwhile; to learn would change `tensors`, though not the file.

        Raises:
            CheckpointError: the model is not fine-tuned, or its parameters do not fit the description.
        """
        vocabulary = self.vocabulary()
        model = without_values(lambda: build_model(self.description))
        assert isinstance(model, CTCModel)
        return self._filled(model, shares=shares), vocabulary

    def _filled(self, model: Model, *, prefix: str = "", shares: bool = False) -> Model:
        """Copy the parameters into a model without values, whose memory is its own, so that it may learn; or share."""
        if shares and _are_alike(model.state_dict(), self.tensors):
            model.load_state_dict(self.tensors, assign=True)
            return model.eval()
        fill(model, self.tensors, prefix=prefix, where=self.name)
        return model.eval()

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 of names, shapes and values."""
        return fingerprint.of_tensors(self.tensors)


def _are_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Say whether names, shapes and types are the same."""
    kinds = [{name: (each.shape, each.dtype) for name, each in tensors.items()} for tensors in (ours, theirs)]
    return kinds[0] == kinds[1]


class _Unfilled(TorchFunctionMode):
    """What draws random values does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call all but initialisers."""
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def without_values(build: Callable[[], Model]) -> Model:
    """Build a model whose parameters hold anything, as no initialiser runs: a second for BASE, and a random state kept.

    Not on the `meta` device, where buffers would lack their values too, tensors with two names would part, and
    weight norm alone imports for a second.
    """
    with _Unfilled():
        return build()


def build_model(description: Description) -> nn.Module:
    """Build the model of the task or, of a trunk alone, a `ModuleDict` of `encoder`, with random weights."""
    encoder = SpeechEncoder(description.encoder)
    if description.task is None:
        return nn.ModuleDict({"encoder": encoder})
    sizes = DataSizes(
        clusters=description.clusters, vocabulary=len(description.vocabulary), classes=len(description.classes)
    )
    return description.task.build(description.objective or description.ctc, encoder, sizes)


def describe_model(folder: Path, description: Description) -> None:
    """Write `model.json`, or compare it with the one that is there.

    Raises:
        CheckpointError: another model is described there, or one that learned other units.
    """
    path = folder / DESCRIPTION
    known = read_description(path) if path.exists() else None
    if known is not None:
        if known.labels:
            check_units(known.labels, description.labels, where=str(path))
        if dataclasses.replace(known, labels=description.labels) != description:
            raise CheckpointError(
                f"{path}: describes another model (its vocabulary, units or architecture differ); "
                "the data of this run have changed: name another out, or remove the folder"
            )
    if known is None or known.labels != description.labels:
        write_atomically(path, json.dumps(to_dict(description), indent=1, ensure_ascii=False) + "\n")


def vocabulary_of_run(out: Path) -> Vocabulary | None:
    """Return what the run of a folder learns to write in, None before its first checkpoint: till then texts may change.

    Raises:
        CheckpointError: its description cannot be read.
    """
    path = out / DESCRIPTION
    description = read_description(path) if path.exists() and last_checkpoint(out) is not None else None
    return None if description is None or description.ctc is None else description.speller()


def check_units(known: Sequence[LabelSource], given: Sequence[LabelSource], *, where: str) -> None:
    """Compare the k-means whose units a model predicts with those of the labels it is to learn from.

    Args:
        known: of the model, by stream.
        given: of the labels, by stream.
        where: the model comes from, for errors.

    Raises:
        LabelError: their number differs, or a stream comes from another k-means.
    """
    for stream, (ours, theirs) in enumerate(zip_longest(known, given)):
        if ours != theirs:
            raise LabelError(
                f"{where}: the model learned {ours or 'nothing'} in label stream {stream}, the labels come from "
                f"{theirs or 'nothing'}, and its head would take their units for others; name labels of the k-means "
                "it began with; other audio gets them by `speechssl cluster` with kmeans= its kmeans.safetensors"
            )


def read_description(path: Path) -> Description:
    """Read what a model is, without its parameters.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        values, note = with_known_language(json.loads(path.read_text(encoding="utf-8")))
        if note:
            print(f"{path}: {note}", file=sys.stderr)
        return from_dict(values, Description, where=str(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); convert or train the model again") from error


def checkpoint_of(path: Path) -> Path:
    """Return where the parameters lie that a model folder, a run folder or one of its steps stands for.

    Raises:
        CheckpointError: a run has no checkpoint yet.
    """
    is_itself = run_folder(path) != path or (path / PARAMETERS).exists()
    return path if is_itself else _best_step(path)


def _best_step(run: Path) -> Path:
    checkpoint = last_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: holds no checkpoint yet; let the run write its first, or name another folder")
    best = read_state(checkpoint).best_step
    return checkpoint if best is None else run / f"step_{best:08d}"
