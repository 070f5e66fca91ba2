"""Random span masks over frames or channels.

Section 4.2 of wav2vec 2.0 (arXiv:2006.11477): frames that start a span are drawn without replacement, and spans may
overlap. Masks depend on lengths only, so they are drawn on the host, where reading them needs no synchronisation.
"""

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError

__all__ = ["MaskConfig", "draw_spans"]


@configuration
class MaskConfig:
    """How much is masked; HuBERT uses start_prob = 0.08.

    fairseq's mask_prob is start_prob x span: 0.65 there is 0.065 here, and masks about 49 % of the frames.
    """

    start_prob: float = 0.065  # probability that a frame starts a span (fairseq: mask_prob / mask_length)
    span: int = 10  # frames in a span (fairseq: mask_length)
    min_spans: int = 2  # spans in each utterance, at least
    last_frame: bool = True  # a span may reach the last position of its row; False: not, as in fairseq
    same_count: bool = False  # all rows keep as many masked positions as the least masked (fairseq: require_same_masks)
    shared_rounding: bool = False  # one draw rounds the number of spans of all rows, as fairseq does without padding

    def __post_init__(self) -> None:
        if not 0 <= self.start_prob < 1:
            raise ConfigError(f"mask.start_prob must lie between 0 and 1, found {self.start_prob}")
        if self.span < 1 or self.min_spans < 0:
            raise ConfigError(f"mask.span and mask.min_spans must be positive, found {self.span} and {self.min_spans}")


def draw_spans(counts: Tensor, size: int, config: MaskConfig, generator: torch.Generator) -> Tensor:
    """Draw a span mask for each row.

    The number of spans is `start_prob * count`, rounded up or down at random as in the reference, so that its mean is
    right for short rows too. Keys of `config` select what fairseq 0.12.2 does differently (`compute_mask_indices`): no
    span starts at the last place where one fits; rows with more masked positions than the least masked row have single
    positions unmasked at random; in rows too short for their spans, spans are cut at the end of the row.

    Args:
        counts: (batch,) int64, valid positions in each row.
        size: positions in the longest row.
        config: rate and length of spans.
        generator: random generator on the device of `counts`.

    Returns:
        (batch, size) bool, True where masked; never past a row's count, and never a whole row: spans are shortened in
        a row that is too short for one span and one unmasked position.
    """
    device = counts.device
    rounding = torch.rand(1 if config.shared_rounding else len(counts), device=device, generator=generator)
    num_spans = (config.start_prob * counts + rounding).floor().long().clamp(min=config.min_spans)
    if config.last_frame:
        span = (counts - 1).clamp(min=0, max=config.span)[:, None]  # (batch, 1)
        last_start = counts[:, None] - span  # (batch, 1)
    else:
        span = counts.clamp(max=config.span)[:, None]
        places = counts - config.span
        last_start = torch.where(places > num_spans, places - 1, torch.minimum(num_spans, counts - 1))[:, None]
    positions = torch.arange(size, device=device)
    score = torch.rand((len(counts), size), device=device, generator=generator)
    score = score.masked_fill(positions > last_start, -1.0)
    if config.span > 1:
        score = score.masked_fill(span == 0, -1.0)
    order = score.argsort(dim=1, descending=True).argsort(dim=1)
    is_start = (order < num_spans[:, None]) & (score >= 0)
    # a position is masked when one of the `span` positions up to it starts a span
    starts_before = functional.pad(is_start.cumsum(1), (1, 0))  # (batch, size + 1)
    opened = starts_before[:, 1:] - starts_before.gather(1, (positions + 1 - span).clamp(min=0).expand(len(counts), -1))
    is_masked = _free_one_position((opened > 0) & (positions < counts[:, None]), counts, generator)
    return _keep_same_count(is_masked, generator) if config.same_count else is_masked


def _free_one_position(is_masked: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Unmask one random position of every fully masked row, which would have no context to predict from."""
    is_whole = (is_masked.sum(1) == counts) & (counts > 0)
    draw = torch.rand(counts.shape, device=counts.device, generator=generator)
    freed = (draw * counts).long()
    positions = torch.arange(is_masked.shape[1], device=counts.device)
    is_freed = (positions == freed[:, None]) & is_whole[:, None]
    return is_masked & ~is_freed


def _keep_same_count(is_masked: Tensor, generator: torch.Generator) -> Tensor:
    """Keep as many masked positions in each row as the least masked row has, chosen at random.

    Rows without masked positions do not count: they are too short to be masked, and would unmask the whole batch.
    """
    masked = is_masked.sum(1)
    fewest = torch.where(masked > 0, masked, is_masked.shape[1]).min()
    score = torch.rand(is_masked.shape, device=is_masked.device, generator=generator).masked_fill(~is_masked, -1.0)
    return is_masked & (score.argsort(dim=1, descending=True).argsort(dim=1) < fewest)
