"""A fit on disk, so that one that was interrupted goes on where it was: the last step, in safetensors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechssl import fingerprint
from speechssl.atomic import atomic
from speechssl.errors import LabelError
from speechssl.units.lloyd import Step

__all__ = ["FitFile"]

_HASHED = 1000  # rows of the sample that tell whether the points are the same


@dataclass(frozen=True, kw_only=True)
class FitFile:
    """The last step of a fit, with what has to be the same for going on from it."""

    path: Path
    identity: dict[str, Any]  # parameters, number of points, hash of some of them

    @classmethod
    def of(cls, path: Path, parameters: dict[str, Any], num_points: int, sample: Tensor) -> "FitFile":
        """Describe a fit; the number of iterations may change between its parts, and where it works."""
        free = {name: value for name, value in parameters.items() if name not in ("max_iter", "tol", "device")}
        hashed = fingerprint.of_parts([fingerprint.bytes_of(sample[:_HASHED])])
        return cls(path=path, identity=free | {"num_points": num_points, "points": hashed})

    def save(self, step: Step) -> None:
        """Write a step, atomically."""
        about = {name: value for name, value in vars(step).items() if name != "centroids"} | {"identity": self.identity}
        with atomic(self.path) as temporary:
            save_file({"centroids": step.centroids.cpu().contiguous()}, temporary, {"speechssl": json.dumps(about)})

    def load(self, sample: Tensor) -> Step | None:
        """Return the step on the device of `sample`, or None if there is no file.

        Raises:
            LabelError: the file is broken, or of other points or parameters.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads(file.metadata()["speechssl"])
                identity = about.pop("identity")
                step = Step(centroids=file.get_tensor("centroids").to(sample.device), **about)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelError(f"{self.path}: cannot read the unfinished k-means ({error}); remove the file") from error
        differ = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if differ:
            changes = ", ".join(f"{name} was {identity.get(name)!r}, is {self.identity[name]!r}" for name in differ[:3])
            raise LabelError(f"{self.path}: holds another unfinished k-means ({changes}); remove it or name another")
        return step
