"""Stage `card`: the records of a run -> a model card, as the Hugging Face hub shows and searches it.

A card states what is recorded, names what is missing, and never guesses. Its head is the metadata that the hub reads
(https://huggingface.co/docs/hub/model-cards), with results as `model-index`.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import as_yaml
from speechssl.data.labels import LabelSource
from speechssl.data.manifest import read_manifest
from speechssl.errors import CheckpointError, ConfigError, ManifestError
from speechssl.hub.model_formats import read_model
from speechssl.hub.saved import Description, SavedModel, checkpoint_of, read_description
from speechssl.tasks.registry import all_tasks
from speechssl.tasks.task import Task
from speechssl.text.languages import read_language
from speechssl.train.checkpoint import DESCRIPTION, TrainState, last_checkpoint, read_config, read_state, run_folder

__all__ = ["CARD", "Score", "model_card", "read_score", "upload_line"]

CARD = "README.md"
_RATES = ("loss", "cer", "wer", "per")  # endings of the metrics that are shown
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Result of `speechssl score --out` on one test set."""

    name: str  # name of the test set
    values: dict[str, Any]

    def line(self) -> str:
        """Return the rates with their intervals, as a row of a table."""
        cells = []
        for rate in ("wer", "cer"):
            interval = self.values[f"{rate}_interval"]
            low, high = 100 * interval["low"], 100 * interval["high"]
            cells.append(f"{100 * self.values[rate]:.1f} % [{low:.1f}, {high:.1f}]")
        return f"| {self.name} | {' | '.join(cells)} | {self.values['utterances']} | {self.values['normaliser']} |"

    def metadata(self) -> dict[str, Any]:
        """Return the result as the hub's metadata."""
        metrics = [{"type": rate, "value": round(100 * self.values[rate], 2)} for rate in ("wer", "cer")]
        return {
            "task": {"type": "automatic-speech-recognition"},
            "dataset": {"name": self.name, "type": self.name},
            "metrics": metrics,
        }


def read_score(path: Path) -> Score:
    """Read a file written by `speechssl score --out`; the test set is named after the file.

    Raises:
        ConfigError: the file is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        score = Score(name=path.stem, values=values)
        score.line()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected a file of `speechssl score ... --out FILE.json` ({error}); score the model with it"
        ) from error
    return score


def model_card(
    source: Path,
    *,
    licence: str | None = None,
    scores: Sequence[Score] = (),
    toolkit: str = "speechssl",
    title: str | None = None,
) -> str:
    """Return a model card.

    Args:
        source: a run, or a model of any format; a run holds the most information.
        licence: identifier of the hub, such as apache-2.0 or cc-by-nc-4.0; None: the card says that it is open.
        scores: results on test sets.
        toolkit: format of the model beside the card: `transformers` or `speechssl`.
        title: title of the card; None for the model's name.

    Raises:
        CheckpointError: the model cannot be read.
    """
    model = read_model(source)[0].model
    described, runs = model.description, _lineage(source)
    title = title or model.name
    head: dict[str, Any] = {
        "license": licence or "unknown",
        "library_name": toolkit,
        "pipeline_tag": described.task.pipeline if described.task else Task.pipeline,
        "tags": [tag for tag in ("speech", "speechssl", described.pretrained_by) if tag],
    }
    languages = _languages(described, runs)
    head |= {"language": languages} if languages else {}
    if scores:
        head["model-index"] = [{"name": title, "results": [score.metadata() for score in scores]}]
    parts = [
        f"---\n{as_yaml(head)}---",
        f"# {title}",
        _sentence(described),
        *_section("Model", _architecture(model)),
        *(line for run in runs for line in _section(run.title, run.rows())),
        *_scores(scores, runs),
        "## Use",
        f"```python\n{_use(described, toolkit)}\n```",
        "## Limits and licence",
        f"Licence: {licence or 'not chosen yet: the licences of the data may bind it; set `license` above'}. The model "
        "fits speech like its training data: other microphones, dialects, ages and noise have not been tested unless "
        "a result above says so.",
    ]
    return "\n\n".join(parts) + "\n"


def upload_line(folder: Path, name: str) -> str:
    """Return the command that uploads a model folder to the hub; nothing is sent from here.

    Raises:
        CheckpointError: the folder holds no model, or has no card.
        ConfigError: the name is not of the form org/name.
    """
    read_model(folder)
    if name.count("/") != 1 or not all(name.split("/")):
        raise ConfigError(f"{name}: expected org/name, as the hub names models")
    if not (folder / CARD).exists():
        raise CheckpointError(f"{folder}: has no {CARD}; write it with `speechssl card MODEL -o {folder / CARD}`")
    return shlex.join(["hf", "upload", name, str(folder), "."])


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A training run, as recorded in its folder."""

    folder: Path
    config: dict[str, Any]
    state: TrainState | None
    labels: str  # origin of the units it predicted; empty if none

    @property
    def title(self) -> str:
        return "Fine-tuning" if "ctc" in self.config else "Pretraining"

    def rows(self) -> list[tuple[str, str]]:
        """Return rows of a name and a value."""
        data, optim, train = (self.config.get(key, {}) for key in ("data", "optim", "train"))
        rows = [("data", _data(data)), ("units", self.labels)] if self.labels else [("data", _data(data))]
        rows.append(("updates planned", str(train.get("steps", _NOT_RECORDED))))
        rows.append(("batch", f"{self.config.get('batch', {}).get('seconds', '?')} s of audio a rank and micro-batch"))
        rows.append(("peak learning rate", str(optim.get("lr", _NOT_RECORDED))))
        rows.append(("seed", str(self.config.get("seed", _NOT_RECORDED))))
        if self.state is not None:
            rows.append(("updates done", f"{self.state.step}, {_duration(self.state.audio_seconds)} of audio seen"))
            rates = {name: value for name, value in self.state.scores.items() if name.endswith(_RATES)}
            rows += [(f"{name} then", f"{value:.4f}") for name, value in rates.items()]
            software = ", ".join(f"{name} {version}" for name, version in self.state.versions.items())
            rows.append(("software", software or _NOT_RECORDED))
        return rows


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 360 else f"{seconds / 60:.1f} minutes"


def _lineage(source: Path) -> list[_Run]:
    """Return the runs that led to a model, oldest first, as far as their folders exist."""
    runs: list[_Run] = []
    place: Path | None = source
    while place is not None and place.is_dir() and (run_folder(place) / "config.json").exists():
        folder = run_folder(place)
        if any(folder == run.folder for run in runs) or "model_type" in (config := read_config(folder)):
            break
        labels: tuple[LabelSource, ...] = ()
        state = None
        if last_checkpoint(folder) is not None:
            labels, state = read_description(folder / DESCRIPTION).labels, read_state(checkpoint_of(place))
        runs.append(_Run(folder=folder, config=config, state=state, labels="; ".join(map(str, labels))))
        place = Path(config["checkpoint"]) if config.get("checkpoint") else None
    return runs[::-1]


def _data(data: dict[str, Any]) -> str:
    """List the manifests that a run read, with hours and utterances where they still exist."""
    found = []
    for name in data.get("manifests", ()):
        try:
            listed = read_manifest(Path(name))
            found.append(f"{name} ({_duration(listed.duration_s)}, {len(listed.utterances)} utterances)")
        except (ManifestError, OSError):
            found.append(f"{name} (no longer there)")
    return "; ".join(found) or _NOT_RECORDED


def _languages(described: Description, runs: Sequence[_Run]) -> list[str]:
    """Return the language codes named by the text policy or the manifests."""
    named = {described.text.language} if described.text.language else set()
    for run in runs:
        for name in run.config.get("data", {}).get("manifests", ()):
            try:
                named |= {row.language for row in read_manifest(Path(name)).utterances if row.language}
            except (ManifestError, OSError):
                continue
    codes = set()
    for name in named:
        try:
            language = read_language(name)
        except ConfigError:
            continue
        codes |= {language.code} if language else set()
    return sorted(codes)


def _sentence(described: Description) -> str:
    titles = {task.method: task.title for task in all_tasks().values()}
    pretrained = titles.get(described.pretrained_by or "", "a method that is not recorded")
    if described.ctc is not None:
        return f"Speech recogniser: a speech encoder pretrained by {pretrained}, fine-tuned with CTC."
    return (
        f"Speech encoder pretrained by {pretrained}; it computes features, and can be fine-tuned to recognise speech."
    )


def _architecture(model: SavedModel) -> list[tuple[str, str]]:
    described, transformer = model.description, model.description.encoder.transformer
    rows = [
        ("parameters", f"{sum(tensor.numel() for tensor in model.tensors.values()):,}"),
        ("frames", f"{described.encoder.frames_per_second:g} a second, of 16 kHz audio"),
        ("Transformer", f"{transformer.num_layers} layers of {transformer.dim}, {transformer.norm}-norm"),
        ("waveforms", "zero mean and unit variance" if described.audio.normalize else "as they are"),
        ("origin", described.origin),
        ("fingerprint", model.fingerprint()),
    ]
    if described.ctc is not None:
        rows.insert(
            1, ("tokens", f"{len(described.vocabulary)} {described.written_in}, texts {described.text.describe()}")
        )
    return rows


def _section(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    lines = ["| | |", "|---|---|", *(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows)]
    return [f"## {title}", "\n".join(lines)]


def _scores(scores: Sequence[Score], runs: Sequence[_Run]) -> list[str]:
    if scores:
        head = ["| test set | WER | CER | utterances | texts |", "|---|---|---|---|---|"]
        return [
            "## Results",
            "\n".join([*head, *(score.line() for score in scores)]) + "\n\nConfidence intervals are 95 %.",
        ]
    if runs and runs[-1].state is not None and runs[-1].state.scores:
        return ["## Results", "No test set has been scored for this card; the scores above are of the development set."]
    return ["## Results", "None recorded: score the model, and write this card with `--score`."]


def _use(described: Description, toolkit: str) -> str:
    if toolkit == "transformers":
        kind = "AutoModelForCTC" if described.ctc else "AutoModel"
        return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("ORG/NAME")'
    what = '.transcribe("speech.wav").text' if described.ctc else '.features("speech.wav").values'
    return f'import speechssl\n\nspeechssl.load("hf://ORG/NAME"){what}'
