"""Steps that were not taken because loss or gradient was not finite: what is kept, to find out why.

out/skipped_step_00000123/model.safetensors  the weights that the step met
                          step.json          loss, norm, and the batches with their utterances
"""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from speechssl.atomic import Draft
from speechssl.errors import CheckpointError
from speechssl.parallel import Ranks, whole_tensors
from speechssl.train.checkpoint import publish
from speechssl.train.learner import MicroBatch, Update

__all__ = ["SkippedBatch", "SkippedStep", "note_skipped_step", "read_skipped_step"]

KEPT = 3  # newest of a run; each is as large as the model


@dataclass(frozen=True, kw_only=True)
class SkippedBatch:
    """A batch of a skipped step."""

    number: int  # in the step, over all ranks
    epoch: int
    index: int  # in the epoch
    ids: tuple[str, ...]
    loss: float  # over what it predicts


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step that was not taken."""

    step: int
    loss: float
    norm: float
    batches: tuple[SkippedBatch, ...]

    def suspects(self) -> list[str]:
        """Return the utterances of the batches whose loss is not finite; of all where only the gradient is not."""
        broken = [batch for batch in self.batches if not math.isfinite(batch.loss)]
        return [key for batch in broken or self.batches for key in batch.ids]


def note_skipped_step(out: Path, model: nn.Module, update: Update, step: int, ranks: Ranks) -> str:
    """Keep what a replay needs, on the first rank, and return on all what to tell the user.

    Args:
        out: run folder.
        model: with the weights that the step met.
        update: that was not made.
        step: its number, from 0.
        ranks: all of them call this.
    """
    skipped = SkippedStep(
        step=step,
        loss=update.loss / update.count,
        norm=update.norm,
        batches=tuple(SkippedBatch(**row) for row in _of_all_ranks(update.micro_batches, ranks)),
    )
    folder = out / f"skipped_step_{step:08d}"
    parameters = whole_tensors(model.state_dict(), ranks, torch.device("cpu"))
    if ranks.is_first:
        _keep(folder, parameters, skipped)
    ids = skipped.suspects()
    named = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
    return (
        f"step {step}: loss {skipped.loss:.4g}, gradient norm {skipped.norm:.4g}: not finite, nothing was updated; "
        f"utterances: {named}; see which with `speechssl replay {folder}`; if it comes again, lower optim.lr, set "
        "optim.max_grad_norm, or take the audio out"
    )


def read_skipped_step(folder: Path) -> SkippedStep:
    """Read what was kept of a step.

    Raises:
        CheckpointError: the folder holds no skipped step.
    """
    try:
        values = json.loads((folder / "step.json").read_text(encoding="utf-8"))
        batches = tuple(SkippedBatch(**row | {"ids": tuple(row["ids"])}) for row in values.pop("batches"))
        return SkippedStep(batches=batches, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: holds no skipped step ({error}); name a folder skipped_step_* of a run"
        ) from error


def _of_all_ranks(mine: tuple[MicroBatch, ...], ranks: Ranks) -> list[dict[str, Any]]:
    rows = [
        {
            "number": batch.number,
            "epoch": batch.epoch,
            "index": batch.index,
            "ids": batch.ids,
            "loss": float(batch.value) / max(int(batch.count), 1),
        }
        for batch in mine
    ]
    if ranks.world_size > 1:
        gathered: list[Any] = [None] * ranks.world_size
        distributed.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    return sorted(rows, key=lambda row: row["number"])


def _keep(folder: Path, parameters: dict[str, Tensor], skipped: SkippedStep) -> None:
    draft = Draft(folder)
    try:
        draft.temporary.mkdir()
        save_file(parameters, draft.temporary / "model.safetensors")
        about = json.dumps(dataclasses.asdict(skipped), indent=1)
        (draft.temporary / "step.json").write_text(about, encoding="utf-8")
        publish(draft.temporary, folder)
    except (OSError, SafetensorError) as error:
        draft.drop()
        raise CheckpointError(f"{folder}: cannot be written ({error}); free some space") from error
    for old in sorted(folder.parent.glob("skipped_step_*"))[:-KEPT]:
        shutil.rmtree(old)
