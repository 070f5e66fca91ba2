"""Adam with decoupled decay, one number at a time, with epsilon where torch adds it or where fairseq does."""

import math


def oracle_adam(
    weight: float,
    gradients: list[float],
    rates: list[float],
    *,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    before_correction: bool,
) -> list[float]:
    """Return the weight after each update."""
    mean = square = 0.0
    weights = []
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient * gradient
        unbiased_mean, remaining = mean / (1 - betas[0] ** number), 1 - betas[1] ** number
        if before_correction:  # the whole denominator is corrected, epsilon with it
            root = (math.sqrt(square) + eps) / math.sqrt(remaining)
        else:
            root = math.sqrt(square / remaining) + eps
        weight = weight - rate * decay * weight - rate * unbiased_mean / root
        weights.append(weight)
    return weights
