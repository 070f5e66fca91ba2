"""Audio in memory, listed as a manifest lists files. What models make of it: tests/inference/test_given.py."""

import numpy as np
import pytest

from speechssl.data.given import list_given


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_whole_numbers_are_of_the_full_scale_of_their_type(dtype):
    lowest = np.iinfo(dtype).min
    (samples,) = list_given(np.array([lowest, 0, -(lowest // 2)], dtype), sample_rate=16_000).samples.values()
    assert samples.flatten().tolist() == [-1.0, 0.0, 0.5]
