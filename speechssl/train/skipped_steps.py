"""Records of skipped steps, whose loss or gradient was not finite, for a later replay.

out/skipped_step_00000123/model.safetensors  the weights before the step
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

KEPT = 3  # number of records to keep, the newest; each is as large as the model


@dataclass(frozen=True, kw_only=True)
class SkippedBatch:
    """A batch of a skipped step."""

    number: int  # number of the batch in the step, over all ranks
    epoch: int
    index: int  # index of the batch in the epoch
    ids: tuple[str, ...]  # ids of the utterances
    loss: float  # loss per prediction


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A skipped step."""

    step: int
    loss: float
    norm: float
    batches: tuple[SkippedBatch, ...]

    def suspects(self) -> list[str]:
        """Return the utterances of batches with non-finite loss; those of all batches if only the gradient is."""
        broken = [batch for batch in self.batches if not math.isfinite(batch.loss)]
        return [key for batch in broken or self.batches for key in batch.ids]


def note_skipped_step(out: Path, model: nn.Module, update: Update, step: int, ranks: Ranks) -> str:
    """Save the data for a replay on the first rank, and return the message for the user on all ranks.

    Args:
        out: run folder.
        model: the model with the weights before the step.
        update: the skipped update.
        step: number of the step, from 0.
        ranks: this process among the others; all ranks have to call this function.
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
        f"utterances: {named}; find the one with `speechssl replay {folder}`; if it happens again, lower optim.lr, set "
        "optim.max_grad_norm, or remove the audio"
    )


def read_skipped_step(folder: Path) -> SkippedStep:
    """Read the record of a skipped step.

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
