"""Dropout with a faster kernel on CPUs."""

from torch import Tensor, nn
from torch.nn import functional

from speechssl.errors import ConfigError
from speechssl.model import fast
from speechssl.model.fast.dropout import dropout

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Dropout that behaves like `nn.Dropout`."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ConfigError(f"a dropout probability must lie between 0 and 1, found {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`; in training mode with elements dropped and the others scaled."""
        if not self.training or self.probability == 0:
            return x
        return dropout(x, self.probability) if fast.applies(x) else functional.dropout(x, self.probability)

    def extra_repr(self) -> str:
        """Show the probability in the model's printed form."""
        return f"probability={self.probability}"
