"""The peer: transformers' Wav2Vec2ForPreTraining, trained as its example script and the script's README prescribe.

    transformers_arm.py small --out FOLDER --manifests POOL.tsv ... --steps 2400 [--seed 0] [--saves 12]

Prescribed and kept (run_wav2vec2_pretraining_no_trainer.py): layer-norm extractor and pre-norm layers, normalised
waveforms of 2 to 20 s, eight utterances a batch in random order and padded to the longest, masks and negatives by the
library's own functions (0.65, 10 frames), Gumbel temperature 2.0 to 0.5 with decay 0.999995, the loss summed and the
gradients divided by the number of masked frames, no clipping, AdamW (0.9, 0.98), eps 1e-6, decay 0.01, linear warm-up
and linear decay, learning rate 0.001 (its command for BASE), gradient checkpointing for BASE.
Not kept, each to the peer's advantage here: one batch an update, as the script multiplies what it has accumulated
again with every further batch; the warm-up is 16 % of the updates, as 32,000 are of its 200,000; no checkpointing for
`small`.
The configuration that its README names is downloaded there; here the sizes are written out, the dropouts those of BASE.

base: the library's default size; longer than 5 s is cut (the script's default; with 20 s a batch needs over 17 GB).
small: the trunk of recipes/registry_pool, everything else as prescribed. small-ours: with its masks, codebooks,
dropouts, rate and lengths, too, in batches of 16 short utterances; the library's model, padding and schedule are left.
small-slow: small-ours at a quarter of its rate, since at 0.001 and 0.002 the codebooks collapse.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from speechssl.atomic import atomic
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, read_audio
from speechssl.data.batching import seeded_generator
from speechssl.data.utterances import Manifest
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.train.checkpoint import last_checkpoint

WARMUP = 0.16  # of all updates
LOG_EVERY = 50
TRIM_S = 60.0  # of audio in a batch, padding counted; after more, what is free goes back to the system

FORM: dict[str, Any] = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "mask_time_prob": 0.65,
    "mask_time_length": 10,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "feat_quantizer_dropout": 0.1,
    "layerdrop": 0.0,
}
SMALL: dict[str, Any] = {  # the trunk of recipes/registry_pool, 25 frames a second
    "conv_dim": [32, 64, 128, 192, 256, 256],
    "conv_kernel": [20, 4, 4, 4, 4, 4],
    "conv_stride": [10, 2, 2, 2, 2, 4],
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "num_conv_pos_embeddings": 32,
}
OURS: dict[str, Any] = {  # what recipes/registry_pool/wav2vec2.yaml sets besides the size
    "mask_time_prob": 0.3,
    "mask_time_length": 3,
    "num_codevectors_per_group": 16,
    "codevector_dim": 128,
    "proj_codevector_dim": 128,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "feat_quantizer_dropout": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one form of the peer sets."""

    settings: dict[str, Any]  # of Wav2Vec2Config
    lr: float = 0.001
    min_s: float = 2.0  # shorter utterances are left out
    utterances: int = 8  # a batch
    max_s: float = 20.0  # the rest of longer ones is cut off
    checkpointing: bool = False  # of activations: memory for time
    temperature_decay: float = 0.999995


ARMS = {
    "base": Arm(settings=FORM, checkpointing=True, max_s=5.0),
    "small": Arm(settings=FORM | SMALL),
    "small-ours": Arm(
        settings=FORM | SMALL | OURS, lr=0.002, temperature_decay=0.9995, min_s=0.5, max_s=4.0, utterances=16
    ),
    "small-slow": Arm(
        settings=FORM | SMALL | OURS, lr=0.0005, temperature_decay=0.9995, min_s=0.5, max_s=4.0, utterances=16
    ),
}


@dataclass
class State:
    """Where a run is; written beside each model as state.json."""

    step: int = 0
    audio_seconds: float = 0.0  # seen, padding not counted
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads


class Pool:
    """Batches of the pool: a function of (seed, step), so that a continued run sees what it would have seen."""

    def __init__(self, manifest: Manifest, arm: Arm, seed: int) -> None:
        self.manifest, self.seed, self.size = manifest, seed, arm.utterances
        self.limit = int(arm.max_s * SAMPLE_RATE)
        self.rows = [row for row in manifest.utterances if row.duration_s > arm.min_s]
        self.epoch, self.order = -1, [0]
        self.extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return normalised waveforms (batch, time) float32 and the attention mask (batch, time), 1 on real samples."""
        per_epoch = -(-len(self.rows) // self.size)  # the last one is smaller
        epoch, position = divmod(step, per_epoch)
        if epoch != self.epoch:
            generator = seeded_generator(self.seed, "order", epoch)
            self.epoch, self.order = epoch, torch.randperm(len(self.rows), generator=generator).tolist()
        chosen = [self.rows[i] for i in self.order[position * self.size :][: self.size]]
        audio = [read_audio(self.manifest.audio_path(row), AudioConfig())[: self.limit].numpy() for row in chosen]
        padded = self.extractor(audio, sampling_rate=SAMPLE_RATE, padding="longest", return_tensors="pt")
        return {"input_values": padded["input_values"], "attention_mask": padded["attention_mask"]}


def with_masks(batch: dict[str, Tensor], model: Wav2Vec2ForPreTraining) -> dict[str, Tensor]:
    """Add mask_time_indices (batch, frames) and sampled_negative_indices (batch, frames, negatives), both int64."""
    frames = int(model._get_feat_extract_output_lengths(batch["input_values"].shape[-1]))
    shape, settings = (len(batch["input_values"]), frames), model.config
    is_valid = model._get_feature_vector_attention_mask(frames, batch["attention_mask"])  # type: ignore[arg-type]
    masked = _compute_mask_indices(shape, settings.mask_time_prob, settings.mask_time_length, attention_mask=is_valid)
    negatives = _sample_negative_indices(shape, settings.num_negatives, mask_time_indices=masked)
    drawn = {"mask_time_indices": torch.tensor(masked, dtype=torch.long)}
    return batch | drawn | {"sampled_negative_indices": torch.tensor(negatives, dtype=torch.long)}


def give_back() -> None:
    """Return free memory: run.sh tells glibc to keep it, and batches of very different sizes tear it to pieces."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate of one update, counted from 0: linear up from 0, linear down to 0."""
    warmup = max(1, int(WARMUP * steps))
    return peak * (step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup)))


def updates(
    model: Wav2Vec2ForPreTraining,
    optimizer: torch.optim.Optimizer,
    pool: Pool,
    arm: Arm,
    *,
    state: State,
    steps: int,
) -> Iterator[dict[str, float]]:
    """Train from `state` to `steps`, yielding the figures of each update."""
    model.train()
    while state.step < steps:
        wall, cpu = time.perf_counter(), time.process_time()
        seed = seeded_generator(pool.seed, "update", state.step).initial_seed()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # the library draws masks and negatives from numpy's global generator
        rate = learning_rate(state.step, steps, arm.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        temperature = max(2.0 * arm.temperature_decay ** max(0, state.step - 1), 0.5)
        model.set_gumbel_temperature(temperature)  # type: ignore[arg-type]
        batch = with_masks(pool.batch(state.step), model)
        masked = int(batch["mask_time_indices"].sum())
        outputs = model(**batch)
        outputs.loss.backward()
        losses = {"loss": outputs.loss, "contrastive": outputs.contrastive_loss}
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.mul_(1 / masked)
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.step()
        optimizer.zero_grad()
        if batch["input_values"].numel() > TRIM_S * SAMPLE_RATE:
            give_back()
        state.step += 1
        state.audio_seconds += float(batch["attention_mask"].sum()) / SAMPLE_RATE
        state.wall_seconds += time.perf_counter() - wall
        state.cpu_seconds += time.process_time() - cpu
        yield {name: float(value.detach()) / masked for name, value in losses.items()} | {
            "code_perplexity": float(outputs.codevector_perplexity.detach()),
            "grad_norm": float(norm),
            "lr": rate,
        }


def save(out: Path, model: Wav2Vec2ForPreTraining, optimizer: torch.optim.Optimizer, pool: Pool, state: State) -> None:
    """Write a model folder of transformers, with the state and what is needed to go on, and give it its name last."""
    final = out / f"step_{state.step:08d}"
    with atomic(final) as temporary:
        model.save_pretrained(temporary)
        pool.extractor.save_pretrained(temporary)
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        (temporary / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    for old in sorted(out.glob("step_*[0-9]/optimizer.pt"))[:-1]:
        old.unlink()


def train(arm: Arm, manifests: tuple[Path, ...], out: Path, *, steps: int, saves: int, seed: int) -> State:
    """Train for so many updates, or what is missing of them, writing the model `saves` times."""
    pool = Pool(read_data(DataConfig(manifests=manifests)), arm, seed)
    torch.manual_seed(seed)
    newest, state = last_checkpoint(out), State()
    if newest is None:
        model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**arm.settings))
    else:
        model = Wav2Vec2ForPreTraining.from_pretrained(newest)
        state = State(**json.loads((newest / "state.json").read_text(encoding="utf-8")))
    if arm.checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arm.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    if newest is not None:
        optimizer.load_state_dict(torch.load(newest / "optimizer.pt", weights_only=True))
    out.mkdir(parents=True, exist_ok=True)
    every = max(1, steps // saves)
    recent: list[dict[str, float]] = []
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        for figures in updates(model, optimizer, pool, arm, state=state, steps=steps):
            recent.append(figures)
            if state.step % LOG_EVERY == 0 or state.step == steps:
                means = {name: sum(row[name] for row in recent) / len(recent) for name in figures}
                recent = []
                line = json.dumps(asdict(state) | means)
                print(line, file=log, flush=True)
                print(line, flush=True)
            if state.step % every == 0 or state.step == steps:
                save(out, model, optimizer, pool, state)
    return state


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=sorted(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--saves", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train(ARMS[given.arm], tuple(given.manifests), given.out, steps=given.steps, saves=given.saves, seed=given.seed)


if __name__ == "__main__":
    main()
