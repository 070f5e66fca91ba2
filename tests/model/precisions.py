"""Which precisions this machine computes."""

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.model.precision import choose_precision

__all__ = ["skip_without"]


def skip_without(precision: str) -> None:
    """Skip a test where the processor or this build of torch lacks a precision."""
    try:
        choose_precision(precision, torch.device("cpu"))
    except ConfigError as error:
        pytest.skip(str(error))
