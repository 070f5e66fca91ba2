"""What frames tell of phones, without fine-tuning: seconds a model, where a recogniser takes minutes.

    phones.py runs/wav2vec2 runs/hubert --corpus runs/registry_pool/corpora/festvox-ru

A linear classifier (ridge regression on one-hot phones) learns on the frames of train.tsv and is scored on those of
dev.tsv: accuracy by layer, the extractor's output first. Of models with a quantizer also: the entropy of its codes on
dev, and what they tell of loudness (16 classes of equal size) and of phones, in nats. `--random` ignores what the
models have learned. Needs the corpus's phones.tsv.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.batching import Example, collate
from speechssl.data.manifest import read_manifest
from speechssl.hub.saved import SavedModel
from speechssl.model.context import INFERENCE
from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.contrastive import ContrastiveObjective
from speechssl.units.phone_alignments import Interval, read_phones
from speechssl.units.quality import mutual_information, segments_of_frames

RIDGE = 10.0  # added to the diagonal; features have variance one
LOUDNESS_CLASSES = 16


@dataclass(frozen=True, kw_only=True)
class Frames:
    """All frames of some utterances that lie in a phone."""

    layers: list[Tensor]  # each (frames, dim) float32; the extractor's output after its norm, then the layers
    phones: Tensor  # (frames,) int64
    loudness: Tensor  # (frames,) float32, mean square of what the extractor sees
    codes: Tensor | None  # (frames, groups) int64, of a model with a quantizer


@torch.no_grad()
def frames_of(
    encoder: SpeechEncoder,
    manifest: Path,
    phones: dict[str, list[Interval]],
    names: list[str],
    audio: AudioConfig,
    objective: ContrastiveObjective | None = None,
) -> Frames:
    """Run a trunk, and a quantizer if there is one, over the utterances of a manifest, each alone."""
    hop, window = encoder.config.hop, encoder.config.window
    read = read_manifest(manifest)
    layers: list[list[Tensor]] = []
    labels, loudness, codes = [], [], []
    for row in read.utterances:
        waveform = read_audio(read.audio_path(row), audio)
        batch = collate([Example(id=row.id, waveform=waveform)])
        encoded = encoder(batch.waveforms, batch.num_samples)
        outputs = [encoded.features[0], *(layer[0] for layer in encoded.layers)]
        segment, is_inside = map(
            torch.from_numpy, segments_of_frames(phones[row.id], len(outputs[0]), hop=hop, window=window)
        )
        layers.append([output[is_inside].float() for output in outputs])
        labels.append(torch.tensor([names.index(each.phone) for each in phones[row.id]])[segment[is_inside]])
        if objective is not None:
            targets = objective.with_targets(encoded, encoder, batch, INFERENCE).features[0]
            quantized = objective.quantizer(targets[is_inside], temperature=1.0, generator=torch.Generator())
            codes.append(quantized.codes)
        loudness.append(waveform.unfold(0, window, hop).square().mean(1)[is_inside])
    return Frames(
        layers=[torch.cat(parts) for parts in zip(*layers, strict=True)],
        phones=torch.cat(labels),
        loudness=torch.cat(loudness),
        codes=torch.cat(codes) if codes else None,
    )


def linear_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Return the share of frames that a linear classifier names rightly.

    Args:
        train: (frames, dim) to learn on.
        labels: (frames,) int64, theirs.
        test: (frames, dim) to be scored on.
        truth: (frames,) int64, theirs.
    """
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-5)
    rows, others = (functional.pad((features - mean) / scale, (0, 1), value=1.0).double() for features in (train, test))
    products = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(products, rows.T @ functional.one_hot(labels).double())
    return float(((others @ weights).argmax(1) == truth).double().mean())


def information(first: Tensor, second: Tensor) -> float:
    """Return the mutual information of two (frames,) int64 labellings in nats; of one with itself, its entropy."""
    joint = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    joint.index_put_((first, second), torch.ones(len(first), dtype=joint.dtype), accumulate=True)
    return mutual_information((joint / joint.sum()).numpy())


def codes_tell(frames: Frames) -> str:
    """Say what a quantizer's codes hold; nothing without codes."""
    if frames.codes is None:
        return ""
    codes = torch.unique(frames.codes, dim=0, return_inverse=True)[1]
    loudness = frames.loudness.argsort().argsort() * LOUDNESS_CLASSES // len(codes)
    return (
        f"; codes: entropy {information(codes, codes):.2f}, of loudness {information(codes, loudness):.2f}, "
        f"of phones {information(codes, frames.phones):.2f} nats"
    )


def look(model: Path, corpus: Path, *, random: bool) -> str:
    """Return a line on one model."""
    saved = SavedModel.read(model)
    objective: ContrastiveObjective | None = None
    if random:
        torch.manual_seed(0)
        encoder = SpeechEncoder(saved.description.encoder).eval()
    elif saved.description.method == "wav2vec2":
        pretrained = saved.pretraining()
        assert isinstance(pretrained.objective, ContrastiveObjective)
        encoder, objective = pretrained.encoder, pretrained.objective
    else:
        encoder = saved.encoder()
    phones = read_phones(corpus / "phones.tsv")
    names = sorted({interval.phone for intervals in phones.values() for interval in intervals})
    train, dev = (
        frames_of(encoder, corpus / f"{split}.tsv", phones, names, saved.description.audio, objective)
        for split in ("train", "dev")
    )
    accuracies = [
        100 * linear_accuracy(ours, train.phones, theirs, dev.phones)
        for ours, theirs in zip(train.layers, dev.layers, strict=True)
    ]
    figures = " ".join(f"{each:.1f}" for each in accuracies)
    return f"{'random, as ' if random else ''}{model}: phones by layer {figures} %{codes_tell(dev)}"


def main() -> None:
    """Read the command line and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    for model in given.models:
        print(look(model, given.corpus, random=given.random), flush=True)


if __name__ == "__main__":
    main()
