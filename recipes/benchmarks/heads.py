"""Heads on a frozen encoder: features computed once for all seeds, against the audio passed through it in every epoch.

heads.py --manifest asterisk/pool.tsv --model RUN --column language

The other way is s3prl's: its runner encodes each batch anew, without gradients, and updates the weights of layers and
the head. Encoder, head, loss, batch, optimiser and number of updates are the same, and so is the network's arithmetic
(tests/tasks/test_heads.py compares it with s3prl's). What `probe` needs besides, extraction, evaluation and files, is
counted for it. A third contender is `probe` for each seed alone. See README.md beside it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measuring import OURS, Outcome, Row, about, interleave, table, write_report
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.hub.model_formats import read_saved
from speechssl.model.first_input import first_inputs
from speechssl.stages.head_probe import train_probes
from speechssl.stages.probe_config import HeadTrainConfig, ProbeConfig
from speechssl.stages.reading_data import DataConfig, read_waveforms
from speechssl.tasks.heads import HeadSizes, UtteranceNetwork
from speechssl.tasks.utterance_classes import UtteranceClasses, UtteranceClassesConfig

__all__ = ["measure"]

EVERY_EPOCH, EACH_ANEW = "the audio in every epoch", "each head anew"
BATCH, RATE = 32, 1e-3


def probe_once(model: Path, train: Path, test: Path, column: str, seeds: Sequence[int], updates: int) -> Outcome:
    """Train heads with `probe` in a folder of its own, features and scores included."""
    with TemporaryDirectory() as folder:
        config = ProbeConfig(
            out=Path(folder) / "probe",
            task=UtteranceClassesConfig(column=column),
            data=DataConfig(manifests=(train,)),
            test=DataConfig(manifests=(test,)),
            shared_speakers=True,
            checkpoint=str(model),
            train=HeadTrainConfig(steps=updates, batch=BATCH, lr=RATE, eval_every=updates),
            seeds=tuple(seeds),
        )
        train_probes(config)
    return Outcome(loss=0.0, predicted=updates * len(seeds), audio_s=read_manifest(train).duration_s)


def every_epoch(model: Path, train: Path, test: Path, column: str, seeds: Sequence[int], updates: int) -> Outcome:
    """Encode each batch anew for every update and every seed, then the test set."""
    encoder = read_saved(model).encoder(shares=True).eval()
    rows, waveforms = _read(train)
    others, unseen = _read(test)
    classes = sorted({str(getattr(row, column)) for row in rows})
    answers = torch.tensor([classes.index(str(getattr(row, column))) for row in rows])
    task, config = UtteranceClasses(), UtteranceClassesConfig(column=column)
    sizes = HeadSizes(layers=encoder.config.transformer.num_layers + 1, dim=encoder.dim, outputs=len(classes))

    @torch.no_grad()
    def encoded(chosen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        with first_inputs(encoder.transformer) as inputs:
            found = encoder(pad_sequence(list(chosen), True), torch.tensor([len(each) for each in chosen]))
        return torch.stack([inputs[0], *found.layers], 1), found.is_valid

    for seed in seeds:
        torch.manual_seed(seed)
        network: UtteranceNetwork = task.network(config, sizes)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        order: list[int] = []
        for _ in range(updates):
            order = order or torch.randperm(len(rows)).tolist()
            batch, order = order[:BATCH], order[BATCH:]
            loss = task.loss(network(*encoded([waveforms[index] for index in batch])), answers[batch])
            optimizer.zero_grad()
            (loss.value / loss.count).backward()
            optimizer.step()
        for begin in range(0, len(others), BATCH):
            with torch.no_grad():
                network(*encoded(unseen[begin : begin + BATCH]))
    return Outcome(
        loss=float(loss.value.detach() / loss.count),
        predicted=updates * len(seeds),
        audio_s=sum(row.duration_s for row in rows),
    )


def measure(
    model: Path, manifest: Path, *, column: str, utterances: int, epochs: int, seeds: Sequence[int], repeats: int
) -> list[Row]:
    """Time both ways in turn on the first utterances of a manifest that have the column, drawn from all classes."""
    whole = read_manifest(manifest)
    rows = [row for row in whole.utterances if getattr(row, column)]
    rows = rows[:: max(1, len(rows) // utterances)][:utterances]
    with TemporaryDirectory() as folder:
        names = Path(folder) / "train.tsv", Path(folder) / "test.tsv"
        for name, part in zip(names, (rows[::2], rows[1::2]), strict=True):
            write_manifest(name, part, root=str(whole.root.absolute()))
        updates = epochs * -(-len(rows[::2]) // BATCH)
        arguments = (model, *names, column, seeds, updates)

        def each_anew() -> Outcome:
            alone = [probe_once(model, *names, column, [seed], updates) for seed in seeds]
            return replace(alone[0], predicted=updates * len(seeds))

        turns: dict[str, Callable[[], Outcome]] = {
            OURS: partial(probe_once, *arguments),
            EVERY_EPOCH: partial(every_epoch, *arguments),
            EACH_ANEW: each_anew,
        }
        timings = interleave(turns, repeats, warm_up=0)
    work = ("frozen", f"{len(seeds)} heads", f"{updates} updates, {epochs} epochs")
    return [Row.of(work, name, each, 0) for name, each in timings.items()]


def _read(manifest: Path) -> tuple[list[Utterance], list[Tensor]]:
    data = DataConfig(manifests=(manifest,))
    whole = read_manifest(manifest)
    read = read_waveforms(data, whole, whole.utterances, audio=data.audio, window=400, title="audio")
    found = [*read]
    return [row for row, _ in found], [waveform for _, waveform in found]


def main() -> None:
    """Measure, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--column", default="language")
    parser.add_argument("--utterances", type=int, default=400, help="half of them are trained on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("heads.json"))
    options = parser.parse_args()
    rows = measure(
        options.model,
        options.manifest,
        column=options.column,
        utterances=options.utterances,
        epochs=options.epochs,
        seeds=options.seeds,
        repeats=options.repeats,
    )
    print(table(rows), file=sys.stdout)
    write_report(options.out, about(0, ("torch",)), rows)


if __name__ == "__main__":
    main()
