"""Trains tiny models on noise on any number of ranks; runs under torchrun are compared with runs of a single process.

Not a test: `training.py OUT CASE...` under torchrun writes the results of each case of `CASES` for
`test_distribute.py`; a recipe instead of a case is run, interrupted and resumed.
"""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.profiler import ProfilerActivity, profile

from speechssl.config import load
from speechssl.data.batching import Batch, Example, collate
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.lora import LoraConfig
from speechssl.model.masking import MaskConfig
from speechssl.model.transformer import TransformerConfig
from speechssl.parallel import Ranks, start_ranks, whole_tensors
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.checkpoint import TrainState, load_training, save_checkpoint
from speechssl.train.distributed import ParallelConfig, distribute, outline, whole_model
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import OptimConfig, build_optimizer

STEPS, CLUSTERS, VOCABULARY = 2, 5, 6
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
MASK = MaskConfig(start_prob=0.1, span=3)
OBJECTIVES = {
    "hubert": MaskedPredictionConfig(mask=MASK, dim=8, unmasked_weight=0.5),
    "wav2vec2": ContrastiveConfig(mask=MASK, dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8)),
    "best_rq": RandomProjectionConfig(
        mask=MASK, codebook=CodebookConfig(entries=6, dim=3, bins=8, projection="pca", pca_steps=2, update="ema")
    ),
    "data2vec": TeacherConfig(mask=MASK, layers=2),
    "dinosr": TeacherConfig(mask=MASK, layers=2, form="codebooks", codebooks=OnlineCodebookConfig(entries=4)),
    "ctc": CTCConfig(mask=MASK, dropout=0.1, freeze_steps=1, channel_mask=MaskConfig(start_prob=0.05, span=4)),
    "ctc_smoothed": CTCConfig(mask=MASK, freeze_steps=0, smoothing=0.1),
    "ctc_thawed": CTCConfig(mask=MASK, freeze_steps=0),
    "ctc_adapters": CTCConfig(mask=MASK, freeze_steps=0, lora=LoraConfig(rank=2, dropout=0.1)),
    "ctc_gradual": CTCConfig(mask=MASK, freeze_steps=0, freeze_below=2, freeze_below_steps=1),
}
OPTIM = OptimConfig(lr=1e-3, eps=1e-3, warmup=0.0, max_grad_norm=2.0, layer_decay=0.9)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    objective: str = "hubert"
    batches: int = 4  # batches of an update, over all ranks
    layer_drop: float = 0.3
    dropout: float = 0.1
    bfloat16: bool = False
    weighted: bool = False  # utterances have weights
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optim: OptimConfig = OPTIM

    def alone(self) -> "Case":
        """Return the equivalent run of a single process."""
        return dataclasses.replace(self, parallel=ParallelConfig())


_VARIANTS = {
    "hubert": Case(),
    "wav2vec2": Case(objective="wav2vec2"),
    "best_rq": Case(objective="best_rq"),
    "data2vec": Case(objective="data2vec"),
    "dinosr": Case(objective="dinosr"),
    "ctc": Case(objective="ctc"),
    "weighted": Case(objective="ctc_smoothed", weighted=True),
    "no_layer_drop": Case(layer_drop=0.0),
    "static": Case(objective="wav2vec2", layer_drop=0.0, batches=2),
    "static_ctc": Case(objective="ctc_thawed", layer_drop=0.0, batches=2),
    "adapters": Case(objective="ctc_adapters"),
    "gradual": Case(objective="ctc_gradual", layer_drop=0.0),
    "early_epsilon": Case(optim=dataclasses.replace(OPTIM, eps_before_correction=True)),
    "bfloat16": Case(bfloat16=True),
    "recomputed": Case(parallel=ParallelConfig(activation_checkpointing=True)),
    "packed": Case(parallel=ParallelConfig(packed=True, activation_checkpointing=True), dropout=0.0),
    "compiled": Case(parallel=ParallelConfig(compile=True), dropout=0.0, layer_drop=0.0),
    "packed_compiled": Case(parallel=ParallelConfig(packed=True, compile=True), dropout=0.0, layer_drop=0.0),
}
CASES = {
    f"{mode}-{name}": dataclasses.replace(case, parallel=dataclasses.replace(case.parallel, mode=mode))
    for mode in ("ddp", "fsdp")
    for name, case in _VARIANTS.items()
    if mode == "ddp" or name not in ("no_layer_drop", "static", "static_ctc")  # which DDP treats differently
}


def build(case: Case) -> nn.Module:
    """Build the model, the same on every rank."""
    torch.manual_seed(0)
    transformer = TransformerConfig(
        dim=32,
        num_layers=3,
        num_heads=2,
        ffn_dim=64,
        position_kernel=8,
        position_groups=4,
        dropout=case.dropout,
        attention_dropout=case.dropout,
        layer_drop=case.layer_drop,
    )
    encoder = SpeechEncoder(
        EncoderConfig(conv=((8, 10, 5), (16, 4, 4), (16, 4, 4)), feature_dropout=case.dropout, transformer=transformer)
    )
    match OBJECTIVES[case.objective]:
        case CTCConfig() as config:
            return CTCModel(encoder, config, VOCABULARY)
        case config:
            clusters = (CLUSTERS, CLUSTERS + 2) if isinstance(config, MaskedPredictionConfig) else ()
            return task_of(config).build(config, encoder, DataSizes(clusters=clusters))


def noise_batch(number: int) -> Batch:
    """Make a batch of two utterances of different lengths."""
    random = torch.Generator().manual_seed(number)
    return collate(
        [
            Example(
                id=f"{number}-{row}",
                waveform=torch.randn(size, generator=random),
                labels=torch.randint(CLUSTERS, (2, size // 80 + 9), generator=random),
                tokens=torch.randint(1, VOCABULARY, (3,), generator=random),
            )
            for row, size in enumerate((2400 + 80 * (number % 7), 1600))
        ]
    )


class Training:
    """A model that learns with the other ranks, and what was seen of it."""

    def __init__(self, case: Case, ranks: Ranks) -> None:
        self.case, self.ranks, self.model = case, ranks, build(case)
        self.outline = outline(self.model)
        accumulate = case.batches // ranks.world_size
        called = distribute(self.model, case.parallel, ranks, bfloat16=case.bfloat16, accumulate=accumulate)
        self.optimizer = build_optimizer(self.model, case.optim)
        config = TrainConfig(steps=100, accumulate=accumulate, bfloat16=case.bfloat16)
        self.learner = Learner(called, self.optimizer, seed=0, optim=case.optim, config=config, ranks=ranks)
        self.state = TrainState()
        self.losses: list[float] = []
        self.norms: list[float] = []

    def step(self, times: int = 1) -> "Training":
        batches = self.batches_from(self.state.position)
        for _ in range(times):
            update = self.learner.update(batches, self.state, say=print)
            self.losses.append(update.loss / update.count)
            self.norms.append(update.norm)
        return self

    def batches_from(self, position: int) -> Iterator[tuple[int, int, Batch]]:
        for number in count(position, self.ranks.world_size):
            batch = noise_batch(number + self.ranks.rank)
            if self.case.weighted:
                weights = torch.rand(2, generator=torch.Generator().manual_seed(number + self.ranks.rank))
                batch = dataclasses.replace(batch, weights=weights)
            yield 0, number + self.ranks.world_size, batch

    def save(self, out: Path, *, in_shares: bool) -> Path:
        return save_checkpoint(
            out, self.model, self.optimizer, self.state, keep=9, ranks=self.ranks, in_shares=in_shares
        )

    def load(self, checkpoint: Path) -> "Training":
        self.state = load_training(checkpoint, self.model, self.optimizer)
        return self

    def evaluate(self) -> float | None:
        """Return the loss of a held-out batch, on the first rank."""
        model = whole_model(self.learner.model, self.outline, self.ranks)
        if model is None:
            return None
        with torch.no_grad():
            return float(
                model.eval()(noise_batch(99), StepContext(step=0, generator=torch.Generator().manual_seed(0))).value
            )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, on the first rank."""
        return whole_tensors(self.model.state_dict(), self.ranks, torch.device("cpu"))

    def write(self, path: Path) -> None:
        """Write all that a test looks at."""
        weights, evaluated = self.weights(), self.evaluate()
        if self.ranks.is_first:
            seen = {"losses": self.losses, "norms": self.norms, "evaluated": evaluated}
            path.with_suffix(".json").write_text(json.dumps(seen))
            save_file(weights, path.with_suffix(".safetensors"))


def save_and_resume(out: Path, ranks: Ranks, mode: str) -> None:
    """Save after a step, whole and in shares; go on; go on again from either, and from a single process's own."""
    case = CASES[f"{mode}-early_epsilon"]  # whose optimiser counts updates of its own
    straight = Training(case, ranks).step()
    for kind in ("whole", "shares") if mode == "fsdp" else ("whole",):
        straight.save(out / f"{mode}-{kind}", in_shares=kind == "shares")
        ranks.wait()
    straight.step().write(out / f"{mode}-straight")
    for kind in ("whole", "shares", "alone"):
        if (out / f"{mode}-{kind}").exists() or kind == "alone":
            folder = out / ("alone" if kind == "alone" else f"{mode}-{kind}")
            Training(case, ranks).load(folder / "step_00000001").step().write(out / f"{mode}-resumed-{kind}")


EXCHANGES = {"ddp-hubert": "c10d::allreduce_", "fsdp-hubert": "c10d::_reduce_scatter_base_"}


def count_exchanges(case: Case, ranks: Ranks, *, batches: int) -> dict[str, int]:
    """Count the collectives of a step by name."""
    training = Training(dataclasses.replace(case, batches=batches), ranks)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        training.step()
    return Counter(event.name for event in seen.events() if event.name.startswith("c10d::"))


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks = start_ranks()
    for name in names:
        if name.endswith(".yaml"):
            last = pretrain(load(Path(name), PretrainConfig))
            ranks.wait()
            if ranks.is_first:  # as if the run had been interrupted after its checkpoint before the last
                shutil.rmtree(last)
            ranks.wait()
            pretrain(load(Path(name), PretrainConfig))
        elif name == "exchanges":
            seen = {key: [count_exchanges(CASES[key], ranks, batches=b) for b in (2, 4)] for key in EXCHANGES}
            if ranks.is_first:
                (out / "exchanges.json").write_text(json.dumps(seen))
        elif name == "checkpoints":
            for mode in ("ddp", "fsdp"):
                save_and_resume(out, ranks, mode)
        else:
            Training(CASES[name], ranks).step(STEPS).write(out / name)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
