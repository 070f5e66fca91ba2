"""Principal directions against the definition: speechssl.units.projection."""

import pytest
import torch

from speechssl.parallel import Ranks
from speechssl.units.projection import principal_directions


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strong", [1, 15, 30, 33, 60, 128])
@pytest.mark.parametrize("scale", [1.5, 4.0, 30.0])
def test_directions_are_found_if_a_quarter_of_the_dimensions_holds_enough(seed, strong, scale):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(600, 128, generator=generator)
    points[:, :strong] *= scale
    points = points @ torch.linalg.qr(torch.randn(128, 128, generator=generator))[0] + 3.0
    variances = torch.linalg.svdvals((points - points.mean(0)).double()).square()
    shares = variances.cumsum(0) / variances.sum()
    found = principal_directions(points, Ranks(rank=0, world_size=1, device=torch.device("cpu")))
    if shares[31] < 0.9:
        assert found is None
    else:
        needed = int((shares < 0.9).sum()) + 1
        assert found.shape == (128, -(-needed // 16) * 16)
        torch.testing.assert_close(found.T @ found, torch.eye(found.shape[1]), rtol=0, atol=1e-4)
        kept = (points - points.mean(0)) @ found
        share = float(kept.square().sum() / variances.sum())
        assert share == pytest.approx(float(shares[found.shape[1] - 1]), rel=1e-5)
