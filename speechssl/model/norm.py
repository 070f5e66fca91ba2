"""Layer norm that adds up the gradients of its weights in float32, whatever the device and the autocast."""

from torch import Tensor, nn

__all__ = ["LayerNorm"]


class LayerNorm(nn.LayerNorm):
    """As `nn.LayerNorm`, which on CUDA computes in float32 under autocast; here on the CPU too.

    There, torch (2.9.1 to 2.15.0) takes 16 bits as they come and adds up the gradients of weight and bias in them, row
    after row: with one thread, half of the bias's is lost after 8,000 frames, nine tenths after 128,000
    (`findings/torch_layer_norm_bfloat16_gradients.sh`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        return super().forward(input.to(self.weight.dtype) if _is_added_up_in_16_bits(input) else input)


def _is_added_up_in_16_bits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype.is_floating_point and x.dtype.itemsize < 4
