"""The key `precision` of inference: which numbers matrix products are computed with."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from speechssl.model.precision import AnyPrecision

__all__ = ["AskedPrecision"]


def _from_flag(value: Any) -> Any:
    """Read the earlier key `bfloat16`, which was true or false."""
    return {True: "bfloat16", False: "float32"}[value] if isinstance(value, bool) else value


AskedPrecision = Annotated[AnyPrecision, BeforeValidator(_from_flag)]
