"""Reports to Weights & Biases, for who asks for it; nothing else of the package knows of it."""

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.atomic import write_atomically
from speechssl.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import wandb

__all__ = ["not_installed", "start_wandb"]


def not_installed(project: str) -> ConfigError:
    """Return the error for a run that asks for wandb where it is not installed."""
    return ConfigError(
        f"train.log.wandb={project}: wandb is not installed; pip install wandb, or set train.log.wandb=null"
    )


def start_wandb(out: Path, project: str, title: str) -> "wandb.Run":
    """Start a run of wandb, or go on with the one that this run folder began.

    Its id is kept in `out/wandb_id`. wandb's own variables hold: with WANDB_MODE=offline everything stays in
    `out/wandb`, and `wandb sync` sends it later. Steps are a figure of their own (`step`), because wandb's counter
    refuses to go back to the step that a run resumes from.

    Args:
        out: run folder; its `config.json`, if there is one, becomes the configuration shown.
        project: of wandb.
        title: group of the run; its name is that of the folder.

    Raises:
        ConfigError: wandb is not installed.
        TrainingError: wandb refuses, as it does without a login.
    """
    try:
        import wandb
    except ImportError as error:
        raise not_installed(project) from error
    path = out / "wandb_id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:12] + "\n")
    settings = out / "config.json"
    try:
        run = wandb.init(
            project=project,
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            name=out.resolve().name,
            group=title,
            dir=out,
            config=json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else None,
            settings=wandb.Settings(console="off", silent=True),  # the console is ours
        )
    except wandb.Error as error:
        raise TrainingError(
            f"train.log.wandb={project}: wandb refuses ({error}); run `wandb login`, set WANDB_MODE=offline, or set "
            "train.log.wandb=null"
        ) from error
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run
