"""Stage `info`: a description of a model of any readable format, or of a k-means, in rows of text."""

import json
from pathlib import Path

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.hub.model_formats import read_model
from speechssl.train.checkpoint import DESCRIPTION, last_checkpoint, read_config, read_state, run_folder
from speechssl.units.kmeans import KMeans

__all__ = ["describe"]


def describe(source: Path) -> list[tuple[str, str]]:
    """Describe a model or a k-means in rows of a name and a value; properties that do not apply have no row."""
    units = source / "kmeans.safetensors" if source.is_dir() else source
    if units.name == "kmeans.safetensors" and units.exists() and not (source / DESCRIPTION).exists():
        return _describe_units(KMeans.load(units))
    read, format_ = read_model(source)
    model, described = read.model, read.model.description
    encoder, transformer = described.encoder, described.encoder.transformer
    parameters = sum(tensor.numel() for tensor in model.tensors.values())
    rows = [
        ("format", format_),
        ("holds", described.method),
        ("pretrained by", described.pretrained_by or _unpretrained(source)),
        ("parameters", f"{parameters:,}"),
        ("input", "waveform" if encoder.input == "waveform" else f"{encoder.log_mel_bins} log-mel energies"),
        ("extractor", f"{len(encoder.conv)} convolutions, {encoder.conv_norm} norm, {encoder.conv[-1][0]} channels"),
        ("frames", f"{encoder.frames_per_second:g} a second, each of {encoder.window / 16:g} ms"),
        ("transformer", f"{transformer.num_layers} layers of {transformer.dim}, {transformer.norm}-norm"),
        ("waveforms", "normalised" if described.audio.normalize else "as they are"),
    ]
    if lower := transformer.lower:
        rows.append(("hourglass", f"layers {lower[0] + 1} to {lower[-1] + 1} on means of {transformer.group} frames"))
    if described.audio.min_sample_rate != SAMPLE_RATE:
        rows.append(("recorded at", f"{described.audio.min_sample_rate} Hz at least"))
    if described.clusters:
        rows.append(("units", ", ".join(map(str, described.clusters))))
    rows += [("labels", f"of {label.features}, k-means {label.kmeans}") for label in described.labels]
    if described.ctc:
        rows += [
            ("vocabulary", f"{len(described.vocabulary)}: {' '.join(described.vocabulary)}"[:200]),
            ("tokens", described.written_in),
            ("texts", described.text.describe()),
        ]
    rows += [
        *([("written with", how)] if (how := described.writing.describe()) else []),
        ("origin", described.origin),
        ("fingerprint", model.fingerprint()),
    ]
    rows += _describe_training(source, model.name)
    rows += [(f"not there: {name}", reason) for name, reason in read.added.items()]
    rows += [(f"not used: {name}", reason) for name, reason in read.dropped.items()]
    return rows


def _describe_units(kmeans: KMeans) -> list[tuple[str, str]]:
    about = kmeans.provenance_
    rows = [
        ("format", "speechssl"),
        ("holds", "k-means of hidden units"),
        ("units", str(kmeans.n_clusters)),
        ("features", f"{about.source or 'not recorded'}, {kmeans.cluster_centers_.shape[1]} of each frame"),
    ]
    if about.frames_per_second is not None:
        rows.append(("frames", f"{about.frames_per_second:g} a second"))
    if about.audio:
        rows.append(("fitted on", ", ".join(f"{name} {value}" for name, value in about.audio.items())))
    return [*rows, ("fingerprint", kmeans.fingerprint)]


def _unpretrained(source: Path) -> str:
    """Return the reason why no pretraining method is known."""
    folder = run_folder(source)
    has_config = (folder / DESCRIPTION).exists() and (folder / "config.json").exists()
    return "nothing: random weights" if has_config and read_config(folder).get("random_weights") else "not recorded"


def _describe_training(source: Path, name: str) -> list[tuple[str, str]]:
    """Describe how far the checkpoint `name` of a run was trained, and how far the run got."""
    folder = run_folder(source)
    checkpoint = folder / Path(name).name
    if not (checkpoint / "state.json").exists():
        return []
    rows = []
    lora = (json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")).get("ctc") or {}).get("lora")
    if lora is not None:
        rows.append(("adapters", f"LoRA of rank {lora['rank']}, merged into the projections they sit on"))
    state = read_state(checkpoint)
    rows.append(("trained", f"{state.step} steps, {state.audio_seconds / 3600:.3g} h of audio seen"))
    last = last_checkpoint(folder)
    run = state if last is None else read_state(last)
    if run.step != state.step:
        rows.append(("of a run", f"of {run.step} steps so far"))
    if run.best_step is not None:
        rows.append(("best step", f"{run.best_step}, score {run.best_score:.4f}"))
    return rows
