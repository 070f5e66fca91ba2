"""Stage `probe`: what a model's layers are worth for a task, by SUPERB's protocol (Yang et al. 2021, arXiv:2105.01051).

Features of frozen models are computed once, and shared by all heads and seeds. Models may also learn with their heads,
see `head_tuning`. Every finished part is kept, and a run that was killed resumes.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.config import to_dict
from speechssl.downstream.head_scores import ClassScorer, FrameScorer, Scorer, intervals_of, mean_scores
from speechssl.errors import ConfigError
from speechssl.parallel import Ranks, pick_device, start_ranks
from speechssl.stages.head_answers import Split, answered_splits, classes_of, frame_labels, tell
from speechssl.stages.head_features import ProbedModel, SplitFeatures, SplitFrames, probed_models, split_features
from speechssl.stages.head_folder import DESCRIPTION, HeadDescription, load_head, read_head, write_head
from speechssl.stages.head_tables import frame_table, utterance_table
from speechssl.stages.head_training import Answered, Examples, predict_examples, scorer_of, train_head
from speechssl.stages.head_tuning import split_frames, tune_head
from speechssl.stages.probe_config import ProbeConfig
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.heads import UNLABELLED, Head
from speechssl.train.run_folder import hold_run_folder

__all__ = ["probe_table", "train_probes"]

RESULT = "result.json"
Result = dict[str, Any]


def train_probes(config: ProbeConfig) -> Path:
    """Train and score heads on every model and seed; return the table. Finished parts are not repeated.

    Raises:
        ManifestError: a split lacks answers or classes, or shares speakers with another.
        LabelError: a model lacks a layer, or alignments do not fit.
        CheckpointError: the folder holds another run, or a model cannot be read.
        AudioError: audio cannot be used, and `bad_audio` says to stop.
        TrainingError: a loss is not finite.
    """
    ranks = start_ranks()
    if ranks.world_size > 1 and (config.baselines or "frozen" in config.encoder_uses):
        raise ConfigError(
            f"{ranks.world_size} ranks train encoders, encoder=all or lora; frozen features and baselines are "
            "for one, with `processes` that extract: start this recipe without torchrun"
        )
    with hold_run_folder(config.out, config, ranks):
        table = config.out / "probe.md"
        if table.exists():
            return table
        splits = answered_splits(config)
        results: list[Result] = []
        for number, model in enumerate(probed_models(config)):
            results += _results(config, splits, number, model, ranks)
        described = {"task": to_dict(config.task), "interval": config.interval, "results": results}
        if ranks.is_first:
            write_atomically(config.out / "scores.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
            write_atomically(table, probe_table(config, results, splits))
        ranks.wait()
    return table


def probe_table(config: ProbeConfig, results: Sequence[Result], splits: Mapping[str, Split]) -> str:
    """Return the scores as a Markdown table, and the weights of the layers as another."""
    names = list(head_of(config.task).scores)
    lines = ["| features | layers | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for result in results:
        cells = [_cell(result["test"][name], len(config.seeds)) for name in names]
        lines.append(f"| {result['model']} | {_layers_of(result)} | {' | '.join(cells)} |")
    chance = [_number(results[0]["chance"].get(name, float("nan"))) for name in names]
    lines += [f"| {results[0]['chance_of']} | - | {' | '.join(chance)} |", ""]
    sums = [result for result in results if len(result["layers"]) > 1]
    if sums:
        layers = sorted({layer for result in sums for layer in result["layers"]})
        lines += ["| weight of layer, % | " + " | ".join(map(str, layers)) + " |", "|" + "---|" * (len(layers) + 1)]
        for result in sums:
            shares = dict(zip(result["layers"], result["weights"], strict=True))
            cells = [f"{100 * shares[layer]:.0f}" if layer in shares else "-" for layer in layers]
            lines.append(f"| {result['model']} | {' | '.join(cells)} |")
        lines.append("")
    lines += [_note(config, results, splits)]
    return "\n".join(lines) + "\n"


def _note(config: ProbeConfig, results: Sequence[Result], splits: Mapping[str, Split]) -> str:
    sizes = ", ".join(f"{name} {count}" for name, count in results[0]["utterances"].items())
    count = len(config.seeds)
    seeds = f"mean of {count} seeds ± their standard deviation" if count > 1 else f"seed {config.seeds[0]}"
    words = f"Test set; {seeds}, and the 95 % bootstrap interval over {config.interval}. "
    words += f"Utterances: {sizes}. Layer 0 is the input of layer 1."
    speakers = {name: {row.speaker for row in split.rows if row.speaker} for name, split in splits.items()}
    both = len(speakers["train"] & speakers["test"])
    if both:
        words += f" {both} of {len(speakers['test'])} test speakers are in the training set, too."
    left_out = {
        f"{name}: {reason}": count
        for name, reasons in results[0]["skipped"].items()
        for reason, count in reasons.items()
    }
    if left_out:
        words += " Left out: " + "; ".join(f"{reason}: {count}" for reason, count in left_out.items()) + "."
    return words


def _results(
    config: ProbeConfig, splits: Mapping[str, Split], number: int, model: ProbedModel, ranks: Ranks
) -> list[Result]:
    """Train and score all heads on the features of one model."""
    slug = re.sub(r"[^\w.-]+", "-", model.name)[-60:]
    chosen: dict[str, tuple[int, ...]] = {"sum" if len(model.layers) > 1 else "one": model.layers}
    if config.each_layer and len(model.layers) > 1 and model.encoder == "frozen":
        chosen |= {f"layer-{layer}": (layer,) for layer in model.layers}
    folders = {label: config.out / "heads" / f"{number}-{slug}-{label}" for label in chosen}
    missing = [label for label, folder in folders.items() if not (folder / RESULT).exists()]
    ranks.wait()  # until all ranks have looked
    if missing:
        head = head_of(config.task)
        classes = () if head.answers == "values" else classes_of(splits["train"])
        splits, examples, about = _examples(config, head, classes, splits, model)
        for label in missing:
            layers = chosen[label]
            one = examples if layers == model.layers else _of_layer(examples, layers[0])
            result = about | _result(config, head, classes, model, splits, one, folders[label], ranks)
            if ranks.is_first:
                write_atomically(folders[label] / RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        ranks.wait()
    return [json.loads((folder / RESULT).read_text(encoding="utf-8")) for folder in folders.values()]


def _examples(
    config: ProbeConfig, head: Head, classes: Sequence[str], splits: Mapping[str, Split], model: ProbedModel
) -> tuple[dict[str, Split], dict[str, Answered], Result]:
    """Return splits without bad audio, their frames with answers, and how many there are and what was left out."""
    kept, examples, skipped = dict[str, Split](), dict[str, Answered](), dict[str, dict[str, int]]()
    for name, whole in splits.items():
        features: SplitFrames
        if model.encoder == "frozen":
            features, split = split_features(config, model, whole, means=head.reads_means(config.task))
        else:
            features, split = split_frames(model, whole)
        if not split.rows:
            raise ConfigError(f"{name}: no utterance is left, as all audio was skipped as bad; see the reasons above")
        kept[name], skipped[name] = split, dict(split.skipped)
        answers: Sequence[Tensor]
        match head.answers:
            case "classes":
                index = {one: number for number, one in enumerate(classes)}
                answers = [torch.tensor(index[str(answer)]) for answer in split.answers]
            case "values":
                answers = [torch.tensor(answer, dtype=torch.float32) for answer in split.answers]
            case "frame_classes":
                answers, unlabelled = frame_labels(
                    split, classes, features.counts, hop=features.hop, window=features.window
                )
                skipped[name] |= unlabelled
        if isinstance(features, SplitFeatures):
            examples[name] = Examples(features=features, answers=answers)
        else:
            examples[name] = Answered(features=features, answers=answers)
    about = {
        "utterances": {name: len(each.answers) for name, each in examples.items()},
        "skipped": {name: reasons for name, reasons in skipped.items() if reasons},
    }
    return kept, examples, about


def _of_layer(examples: Mapping[str, Answered], layer: int) -> dict[str, Answered]:
    return {name: dataclasses.replace(each, features=each.features.of_layer(layer)) for name, each in examples.items()}


def _result(
    config: ProbeConfig,
    head: Head,
    classes: Sequence[str],
    model: ProbedModel,
    splits: Mapping[str, Split],
    examples: Mapping[str, Answered],
    folder: Path,
    ranks: Ranks,
) -> Result:
    """Train a head for each seed, and score all of them on the test set."""
    test, seeds, scorers = examples["test"], list[Result](), list[Scorer]()
    for seed in config.seeds:
        place = folder / f"seed-{seed}"
        if model.encoder == "frozen":
            description, shares, predictions = _trained(config, head, classes, model, examples, seed, place)
        else:
            description, shares, predictions = _tuned(
                config, head, classes, model, splits, examples, seed, place, ranks
            )
        scorers.append(scorer_of(head.answers, test, predictions))
        about = {"seed": seed, "step": description.step, "dev": description.dev}
        seeds.append(about | {"test": scorers[-1].scores(), "weights": shares})
    means, spans = mean_scores(scorers), intervals_of(scorers, _blocks(config, test), seed=config.seed)
    scores = {
        name: {
            "mean": mean,
            "std": float(np.std([each["test"][name] for each in seeds], ddof=1)) if len(seeds) > 1 else 0.0,
            "low": spans[name].low,
            "high": spans[name].high,
        }
        for name, mean in means.items()
    }
    result = {
        "model": model.name,
        "kind": model.kind,
        "encoder": model.encoder,
        "layers": list(test.features.layers),
        "test": scores,
        "weights": np.mean([each["weights"] for each in seeds], 0).tolist(),
        "seeds": seeds,
        "classes": list(classes),
    }
    if classes:
        result["confusion"] = sum(
            each.counts() for each in scorers if isinstance(each, (ClassScorer, FrameScorer))
        ).tolist()  # type: ignore[union-attr]
    return result | _chance(head, classes, examples)


def _trained(
    config: ProbeConfig,
    head: Head,
    classes: Sequence[str],
    model: ProbedModel,
    examples: Mapping[str, Answered],
    seed: int,
    folder: Path,
) -> tuple[HeadDescription, list[float], list[Tensor]]:
    """Train a head, or read the one that is there; return its description, layer weights and test predictions."""
    train, test, dev = examples["train"], examples["test"], examples.get("dev")
    assert isinstance(train, Examples) and isinstance(test, Examples) and isinstance(dev, Examples | None)
    if (folder / DESCRIPTION).exists():
        description, network = read_head(folder)
        network = network.to(pick_device())
    else:
        description = _description(config, classes, model, train, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = head.network(config.task, description.sizes)
        tell(f"{folder.parent.name}: seed {seed}")
        trained = train_head(
            network,
            head,
            train,
            dev,
            config.train,
            weights=head.weights(config.task, _counts(train, len(classes))),
            seed=seed,
            state=folder / "state.safetensors",
        )
        description, network = dataclasses.replace(description, step=trained.step, dev=trained.dev), trained.network
    predictions = predict_examples(network, head, test)
    write_atomically(folder / "predictions.tsv", "".join(_lines(head, classes, test, predictions)))
    if not (folder / DESCRIPTION).exists():
        write_head(folder, description, network)
    (folder / "state.safetensors").unlink(missing_ok=True)
    return description, network.sum.shares().tolist(), predictions


def _tuned(
    config: ProbeConfig,
    head: Head,
    classes: Sequence[str],
    model: ProbedModel,
    splits: Mapping[str, Split],
    examples: Mapping[str, Answered],
    seed: int,
    folder: Path,
    ranks: Ranks,
) -> tuple[HeadDescription, list[float], list[Tensor]]:
    """Train an encoder with its head, or read those that are there; the test set is predicted as by `predict`."""
    train, test = examples["train"], examples["test"]
    is_trained = (folder / DESCRIPTION).exists()
    ranks.wait()  # until all ranks have looked
    if not is_trained:
        description = _description(config, classes, model, train, seed)
        weights = head.weights(config.task, _counts(train, len(classes)))
        tell(f"{folder.parent.name}: seed {seed}")
        tune_head(config, model, description, splits, examples, folder, weights=weights, ranks=ranks)
    loaded = load_head(folder)
    manifest = dataclasses.replace(splits["test"].manifest, utterances=test.features.rows)
    found = {row.id: each for row, each in loaded.predict_manifest(splits["test"].data, manifest, title="test set")}
    predictions = [found[row.id] for row in test.features.rows]
    if ranks.is_first:
        write_atomically(folder / "predictions.tsv", "".join(_lines(head, classes, test, predictions)))
    return loaded.description, loaded.network.sum.shares().tolist(), predictions


def _description(
    config: ProbeConfig, classes: Sequence[str], model: ProbedModel, train: Answered, seed: int
) -> HeadDescription:
    values = torch.stack([*train.answers]).double() if not classes else torch.zeros(2)
    return HeadDescription(
        task=config.task,
        classes=tuple(classes),
        mean=float(values.mean()) if not classes else 0.0,
        std=float(values.std().clamp(min=1e-9)) if not classes and len(values) > 1 else 1.0,
        layers=train.features.layers,
        dim=train.features.dim,
        hop=train.features.hop,
        window=train.features.window,
        model=model.model,
        fingerprint=model.fingerprint,
        random_weights=model.random_weights,
        encoder=model.encoder,
        lora=config.tuning.lora if model.encoder == "lora" else None,
        cmn=config.cmn and model.kind == "baseline",
        audio=config.data.audio,
        extract=config.extract,
        seed=seed,
        step=0,
    )


def _counts(train: Answered, classes: int) -> list[int]:
    """Count the examples of each class; none for values."""
    if not classes:
        return []
    labels = torch.cat([each.reshape(-1) for each in train.answers])
    return torch.bincount(labels[labels != UNLABELLED], minlength=classes).tolist()


def _blocks(config: ProbeConfig, test: Answered) -> list[str]:
    """Return the block of each test utterance for the bootstrap."""
    if config.interval == "utterances":
        return [row.id for row in test.features.rows]
    unknown = [row.id for row in test.features.rows if row.speaker is None]
    if unknown:
        raise ConfigError(
            f"interval=speakers needs the speaker of every test utterance, {len(unknown)} have none "
            f"({', '.join(unknown[:3])}); add the column, or set interval=utterances"
        )
    speakers = [str(row.speaker) for row in test.features.rows]
    if len({*speakers}) < 2:
        raise ConfigError(
            f"interval=speakers needs two test speakers or more, found {speakers[0]} alone; set interval=utterances"
        )
    return speakers


def _chance(head: Head, classes: Sequence[str], examples: Mapping[str, Answered]) -> Result:
    """Score what needs no features: the most frequent class of the training set, or the mean of its values."""
    train, test = examples["train"], examples["test"]
    if not classes:
        mean = torch.stack([*train.answers]).mean()
        return {
            "chance_of": "mean of the training set",
            "chance": scorer_of(head.answers, test, [mean] * len(test.answers)).scores(),
        }
    counts = _counts(train, len(classes))
    frequent = torch.nn.functional.one_hot(torch.tensor(counts).argmax(), len(classes)).float()
    predictions = [frequent.expand(*answer.shape, len(classes)) for answer in test.answers]
    scores = scorer_of(head.answers, test, predictions).scores()
    return {"chance_of": f"most frequent class ({classes[int(frequent.argmax())]})", "chance": scores}


def _lines(head: Head, classes: Sequence[str], test: Answered, predictions: Sequence[Tensor]) -> Iterator[str]:
    rows = zip(test.features.rows, test.answers, predictions, strict=True)
    if head.answers == "frame_classes":
        return frame_table(rows, classes, hop=test.features.hop, window=test.features.window, has_answers=True)
    return utterance_table(rows, classes, has_answers=True)


def _layers_of(result: Result) -> str:
    layers = result["layers"]
    if result["kind"] == "baseline":
        return "-"
    return f"sum of {layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


def _cell(score: Mapping[str, float], seeds: int) -> str:
    spread = f" ± {_number(score['std'])}" if seeds > 1 else ""
    return f"{_number(score['mean'])}{spread} [{_number(score['low'])}, {_number(score['high'])}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
