"""A model on disk: its description (`model.json`) and its parameters (safetensors); never a pickle.

    folder/model.json                        a `Description`
    folder/model.safetensors                 parameters of a converted model, or
    folder/step_00001000/model.safetensors   those of a training run, or shares of it, see `train.checkpoint`

A run folder is also a model folder: whatever reads one reads the other, without further files.
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
from speechssl.config import configuration, from_dict, to_stored
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
    """Description of a model: enough to build it, and to prepare its input as in training."""

    encoder: EncoderConfig
    objective: ObjectiveConfig | None = None  # objective of a pretrained model with its head
    clusters: tuple[int, ...] = ()  # number of units of each label stream, for masked prediction
    classes: tuple[str, ...] = ()  # utterance classes of its head, by class number
    labels: tuple[LabelSource, ...] = ()  # source of the labels of each stream, if known
    ctc: CTCConfig | None = None  # CTC configuration of a fine-tuned model
    vocabulary: tuple[str, ...] = ()  # tokens of its CTC head, by id
    written_in: WrittenIn = "letters"  # kind of the tokens
    text: TextConfig = TextConfig()  # normalisation of its training texts, and of all later ones
    lexicon: tuple[str, ...] = ()  # lines of a word, a tab and its phones, if the tokens are phones
    piece_scores: tuple[float, ...] = ()  # log-probabilities of the tokens after the blank, if they are pieces
    writing: WritingConfig = WritingConfig()  # how tokens are joined to texts
    audio: AudioConfig = AudioConfig()  # how its training audio was read; inference reads in the same way
    family: str | None = None  # pretraining method of a trunk without its objective
    origin: str = "speechssl"  # or the format and the file it was converted from

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
        """Describe a CTC model with everything that its vocabulary needs."""
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
        """Return the vocabulary with everything needed to encode and decode."""
        scores = dict(zip(self.vocabulary[1:], self.piece_scores, strict=True)) if self.piece_scores else {}
        lexicon = parse_lexicon(self.lexicon)
        return Vocabulary(self.vocabulary, self.written_in, self.text, lexicon, scores, writing=self.writing)

    @property
    def task(self) -> Task | None:
        """The task of the model's head; None for a trunk alone."""
        config = self.objective or self.ctc
        return None if config is None else task_of(config)

    @property
    def method(self) -> str:
        """The method of the task; `encoder` for a trunk alone."""
        return "encoder" if self.task is None else self.task.method

    @property
    def pretrained_by(self) -> str | None:
        """The pretraining method of the trunk, if known."""
        return self.family if self.objective is None else self.method


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model as stored on disk; modules are built on request."""

    description: Description
    tensors: dict[
        str, Tensor
    ]  # by parameter name of PretrainModel or CTCModel; names of the trunk begin with `encoder.`
    name: str  # folder and checkpoint, for messages

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a model folder, a run folder (its best step, or its last) or one of its steps.

        Adapters are merged into their projections, so the result has none.

        Raises:
            CheckpointError: there is no model, or one of its files is broken.
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
        """Write a model folder; the description comes last, so that an incomplete folder is not a model.

        Raises:
            CheckpointError: the folder already holds a model or a run.
        """
        if (folder / DESCRIPTION).exists() or any(folder.glob("step_*")):
            raise CheckpointError(f"{folder}: holds a model already; name another folder, or remove it")
        with atomic(folder / PARAMETERS) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary)
        describe_model(folder, self.description)

    def encoder(self, *, shares: bool = False) -> SpeechEncoder:
        """Build the trunk, in evaluation mode.

        Args:
            shares: as in `recogniser`.

        Raises:
            CheckpointError: the parameters do not fit the description.
        """
        encoder = without_values(lambda: SpeechEncoder(self.description.encoder))
        return self._filled(encoder, prefix="encoder.", shares=shares)

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
        """Return the vocabulary of a fine-tuned model, without building the model.

        Raises:
            CheckpointError: the model is not fine-tuned.
        """
        if self.description.ctc is None:
            raise CheckpointError(f"{self.name}: is of kind {self.description.method}, expected a fine-tuned one")
        return self.description.speller()

    def recogniser(self, *, shares: bool = False) -> tuple[CTCModel, Vocabulary]:
        """Build trunk and CTC head, in evaluation mode, with the vocabulary.

        Args:
            shares: use `tensors` themselves as parameters, for inference only: a memory-mapped file is not copied. The
                file must not change meanwhile; training would modify `tensors`, but not the file.

        Raises:
            CheckpointError: the model is not fine-tuned, or its parameters do not fit the description.
        """
        vocabulary = self.vocabulary()
        model = without_values(lambda: build_model(self.description))
        assert isinstance(model, CTCModel)
        return self._filled(model, shares=shares), vocabulary

    def _filled(self, model: Model, *, prefix: str = "", shares: bool = False) -> Model:
        """Fill a model built without values: copy the parameters, so that it can be trained, or share their memory."""
        named = {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}
        if shares and _are_alike(model.state_dict(), named):
            model.load_state_dict(named, assign=True)
            return model.eval()
        fill(model, self.tensors, prefix=prefix, where=self.name)
        return model.eval()

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 of names, shapes and values."""
        return fingerprint.of_tensors(self.tensors)


def _are_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Return whether names, shapes and types are equal."""
    kinds = [{name: (each.shape, each.dtype) for name, each in tensors.items()} for tensors in (ours, theirs)]
    return kinds[0] == kinds[1]


class _Unfilled(TorchFunctionMode):
    """Mode in which random initialisers do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call all functions except initialisers."""
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def without_values(build: Callable[[], Model]) -> Model:
    """Build a model with uninitialised parameters: saves a second for BASE and leaves the random state unchanged.

    The `meta` device is no alternative: buffers would lack their values, too, tensors with two names would be
    separated, and the imports for weight norm alone take a second.
    """
    with _Unfilled():
        return build()


def build_model(description: Description) -> nn.Module:
    """Build the model of the task, or a `ModuleDict` of `encoder` for a trunk alone, with random weights."""
    encoder = SpeechEncoder(description.encoder)
    if description.task is None:
        return nn.ModuleDict({"encoder": encoder})
    sizes = DataSizes(
        clusters=description.clusters, vocabulary=len(description.vocabulary), classes=len(description.classes)
    )
    description.task.check(sizes)
    return description.task.build(description.objective or description.ctc, encoder, sizes)


def describe_model(folder: Path, description: Description) -> None:
    """Write `model.json`, or compare with the existing one.

    Raises:
        CheckpointError: the existing file describes another model, or one trained on other units.
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
        write_atomically(path, json.dumps(to_stored(description), indent=1, ensure_ascii=False) + "\n")


def vocabulary_of_run(out: Path) -> Vocabulary | None:
    """Return the vocabulary of a run; None before its first checkpoint, until which the texts may change.

    Raises:
        CheckpointError: the description cannot be read.
    """
    path = out / DESCRIPTION
    description = read_description(path) if path.exists() and last_checkpoint(out) is not None else None
    return None if description is None or description.ctc is None else description.speller()


def check_units(known: Sequence[LabelSource], given: Sequence[LabelSource], *, where: str) -> None:
    """Check that a model's units and the labels come from the same k-means.

    Args:
        known: label sources of the model, by stream.
        given: label sources of the labels, by stream.
        where: origin of the model, for errors.

    Raises:
        LabelError: the numbers of streams differ, or a stream comes from another k-means.
    """
    for stream, (ours, theirs) in enumerate(zip_longest(known, given)):
        if ours != theirs:
            raise LabelError(
                f"{where}: the model learned {ours or 'nothing'} in label stream {stream}, the labels come from "
                f"{theirs or 'nothing'}, whose units mean something else to its head; name labels of the same k-means; "
                "`speechssl cluster` with kmeans= its kmeans.safetensors makes them for other audio"
            )


def read_description(path: Path) -> Description:
    """Read the description of a model, without its parameters.

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
    """Return the file of the parameters for a model folder, a run folder or one of its steps.

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
