"""Linear layers of the encoder, with a faster kernel on CPUs."""

from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast.products import is_faster, linear

__all__ = ["Linear"]


class Linear(nn.Linear):
    """`nn.Linear` whose product runs in the faster of torch's libraries."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if fast.applies(input) and is_faster(input):
            return linear(input, self.weight, self.bias)
        return super().forward(input)

    def activated(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out) and apply GELU."""
        return functional.gelu(self(input))
