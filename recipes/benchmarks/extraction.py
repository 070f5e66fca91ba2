"""Features of a layer to disk: how much of the speed of the forward pass alone is left, and what others' way costs.

    extraction.py --manifest POOL.tsv                     small, 8 minutes of speech, every format
    extraction.py --manifest POOL.tsv --size base --seconds 90 --format npy
    extraction.py --manifest POOL.tsv --short             small, 2 minutes, npy, few repeats

Contenders in turn, each of which reads its model first: ours in each format; the forward pass of ours over waveforms in
memory, which reads no audio and writes nothing; and transformers' model with the same parameters, an utterance at a
time, its layer saved by `numpy.save`, as its users do (it computes all layers, ours those up to the one that is wanted:
`--layer` the last one for equal work). Prints a table and writes one JSON file. See README.md beside it.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from allocator import set_allocator
from batches import draw_speech
from measuring import Outcome, Row, about, interleave, table, write_report
from sizes import SIZES, Size

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance
from speechssl.features.feature_folder import FORMATS, FeatureFolder
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages.convert import convert
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import ExtractConfig, trunk
from speechssl.stages.reading_data import DataConfig

__all__ = ["ALONE", "PEER", "measure", "shares"]

ALONE, PEER = "forward pass alone", "transformers"
PACKAGES = ("torch", "transformers", "h5py", "zarr", "pyarrow", "safetensors")
TOLERANCE = 1e-3  # of features, between ours and the peer's


def measure(
    size: Size, rows: Sequence[Utterance], folder: Path, *, formats: Sequence[str], layer: int, repeats: int, seed: int
) -> list[Row]:
    """Time features of a layer from audio files to files.

    Args:
        size: of the model, whose weights are random.
        rows: utterances with absolute paths.
        folder: for the model and what is written.
        formats: of ours.
        layer: counted from 1.
        repeats: turns of each that are timed.
        seed: of the weights.

    Raises:
        ValueError: the peer's features are others.
    """
    parameters = _write_model(size, folder / "ours", seed=seed)
    convert(folder / "ours", folder / "theirs", "transformers")
    write_manifest(folder / "manifest.tsv", rows)
    audio_s = sum(row.duration_s for row in rows)
    frames: dict[str, int] = {}

    def turn(name: str, run: Callable[[], int]) -> Callable[[], Outcome]:
        def one() -> Outcome:
            set_allocator(keeps=name != PEER)
            frames[name] = run()
            return Outcome(loss=0.0, predicted=frames[name], audio_s=audio_s)

        return one

    turns = {f"speechssl {form}": turn(form, partial(_ours, folder, form, layer)) for form in formats}
    turns[ALONE] = turn(ALONE, _alone(folder, rows, layer))
    turns[PEER] = turn(PEER, _theirs(folder, rows, layer))
    timings = interleave(turns, repeats)
    _compare(folder, rows, formats[0], layer)
    return [Row.of((size.name, "features", f"layer {layer}"), name, timings[name], parameters) for name in turns]


def shares(rows: Sequence[Row], *, clock: str = "walls") -> dict[str, float]:
    """Return our speed in each format over that of the forward pass alone, and over the peer's; medians of repeats."""
    found = {}
    for other in (row for row in rows if row.contender in (ALONE, PEER)):
        for row in (row for row in rows if row.contender not in (ALONE, PEER)):
            pairs = zip(getattr(other, clock), getattr(row, clock), strict=True)
            found[f"{row.work} {row.contender}: {other.contender}"] = round(
                float(np.median([a / b for a, b in pairs])), 3
            )
    return found


def _write_model(size: Size, folder: Path, *, seed: int) -> int:
    torch.manual_seed(seed)
    encoder = SpeechEncoder(size.encoder)
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    description = Description(encoder=size.encoder, family="hubert")
    SavedModel(description=description, tensors=tensors, name="random").write(folder)
    return sum(parameter.numel() for parameter in encoder.parameters())


def _ours(folder: Path, form: str, layer: int) -> int:
    """Do what `speechssl extract` does, reading the model included."""
    config = ExtractFeaturesConfig(
        out=_fresh(folder, form),
        data=DataConfig(manifests=(folder / "manifest.tsv",), root=Path("/")),
        model=str(folder / "ours"),
        layers=(layer,),
        format=form,
    )
    return FeatureFolder(extract_features(config)).description.frames


def _alone(folder: Path, rows: Sequence[Utterance], layer: int) -> Callable[[], int]:
    """Read the model, run the same passes over waveforms that are in memory, and let go of what comes out."""
    waveforms = [read_audio(Path(row.path), AudioConfig()) for row in rows]

    def run() -> int:
        source = trunk(SavedModel.read(folder / "ours"), (layer,), DataConfig(manifests=()), ExtractConfig())
        return sum(len(layers[0]) for waveform in waveforms for _, layers in source.compute([waveform]))

    return run


def _theirs(folder: Path, rows: Sequence[Utterance], layer: int) -> Callable[[], int]:
    """Save `hidden_states[layer]` of transformers' model, reading the model included."""
    from transformers import AutoFeatureExtractor, HubertModel

    def run() -> int:
        out = _fresh(folder, PEER)
        out.mkdir(parents=True)
        prepare = AutoFeatureExtractor.from_pretrained(folder / "theirs")
        model, frames = HubertModel.from_pretrained(folder / "theirs").eval(), 0
        with torch.no_grad():
            for row in rows:
                waveform = read_audio(Path(row.path), AudioConfig()).numpy()
                inputs = prepare(waveform, sampling_rate=16_000, return_tensors="pt")
                hidden = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
                np.save(out / f"{row.id}.npy", hidden.numpy())
                frames += len(hidden)
        return frames

    return run


def _fresh(folder: Path, name: str) -> Path:
    """Return a folder that is not there yet: nobody's turn removes what another one wrote."""
    return folder / name / str(len([*(folder / name).glob("*")]))


def _compare(folder: Path, rows: Sequence[Utterance], form: str, layer: int) -> None:
    """Look whether both wrote the same features."""
    theirs = {row.id: np.load(folder / PEER / "0" / f"{row.id}.npy") for row in rows[:3]}
    for key, array in FeatureFolder(folder / form / "0").read(theirs, layer=layer):
        worst = float(np.abs(array - theirs[key]).max()) if array.shape == theirs[key].shape else float("inf")
        if not worst < TOLERANCE:
            raise ValueError(f"{key}: features differ by {worst} from {PEER}'s, expected less than {TOLERANCE}")


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="of real speech")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seconds", type=float, help="of audio in a turn; 480, in the short form 120")
    parser.add_argument("--format", nargs="+", choices=FORMATS, help="all that are installed; in the short form npy")
    parser.add_argument("--layer", type=int, help="the middle one if not given")
    parser.add_argument("--repeats", type=int, help="turns of each; 5, in the short form 3")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/extraction.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = SIZES[options.size]()
    rows = draw_speech(options.manifest, options.seconds or (120.0 if options.short else 480.0), seed=options.seed)
    with TemporaryDirectory() as folder:
        measured = measure(
            size,
            rows,
            Path(folder),
            formats=options.format or (["npy"] if options.short else [*FORMATS]),
            layer=options.layer or size.encoder.transformer.num_layers // 2,
            repeats=options.repeats or (3 if options.short else 5),
            seed=options.seed,
        )
    print(table(measured), *(f"{key}: {ratio:.2f}" for key, ratio in shares(measured).items()), sep="\n")
    facts = about(options.seed, PACKAGES)
    write_report(options.out, facts, measured, shares=shares(measured), cpu_shares=shares(measured, clock="cpus"))


if __name__ == "__main__":
    main()
