"""Which checkpoints of a run have the best scores, and for how long none was better."""

import math

from speechssl.train.checkpoint import TrainState

__all__ = ["note_score"]


def note_score(state: TrainState, score: float, *, keep_best: int, counts: bool) -> bool:
    """Note the score of the step just done, and return whether it is among the best.

    Of equal scores the first is the better one; one that is not a number is worse than all.

    Args:
        state: of the run; changes.
        score: lower is better.
        keep_best: how many are remembered.
        counts: whether this evaluation is one that a better score can be expected of: in the steps that a run is
            given before it must have learnt anything, none is counted against its patience.
    """
    comparable = math.inf if math.isnan(score) else score
    ranked = [(float(old), int(step)) for old, step in state.best if step != state.step]  # JSON knows no tuples
    if not ranked and state.best_score is not None and state.best_step is not None:  # written before ranks were kept
        ranked = [(state.best_score, state.best_step)]
    is_best = not ranked or comparable < ranked[0][0]
    state.best = sorted([*ranked, (comparable, state.step)])[:keep_best]
    if is_best:
        state.best_score, state.best_step = comparable, state.step
    state.since_best = 0 if is_best else state.since_best + counts
    return any(step == state.step for _, step in state.best)
