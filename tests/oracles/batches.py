"""The batches of an epoch, planned crop by crop: what `BatchSampler` did before it was rewritten with arrays.

Runs of that time have to go on with the same batches, so this stays as it is.
"""

import hashlib
from collections.abc import Sequence

import torch

from speechssl.data.batching import BatchConfig, Crop, seeded_generator


def oracle_epoch(
    lengths: Sequence[int], config: BatchConfig, *, seed: int, epoch: int, hop: int = 1
) -> list[list[Crop]]:
    """Plan one epoch of utterances of the given lengths, in samples at 16 kHz."""
    kept = {i: n for i, n in enumerate(lengths) if n >= config.min_s * 16_000}
    generator = seeded_generator(seed, "order", epoch)
    draws = torch.rand((len(kept), 2), generator=generator, dtype=torch.float64).tolist()
    crops = []
    for (index, length), (place, _) in zip(kept.items(), draws, strict=True):
        limit = length if config.max_crop_s is None else int(config.max_crop_s * 16_000)
        if length <= limit:
            crops.append(Crop(index, 0, length))
        else:
            crops.append(Crop(index, int(place * ((length - limit) // hop + 1)) * hop, limit))
    if config.max_crop_s is None:
        order = sorted(range(len(crops)), key=lambda k: crops[k].num_samples * (1 + 0.1 * draws[k][1]))
    else:
        drawn = torch.randperm(len(crops), generator=generator).tolist()
        order = sorted(drawn, key=lambda k: crops[k].num_samples)
    batches: list[list[Crop]] = []
    for k in order:
        longest = max([crop.num_samples for crop in batches[-1]] + [crops[k].num_samples]) if batches else 0
        if (
            not batches
            or longest * (len(batches[-1]) + 1) > config.seconds * 16_000
            or len(batches[-1]) >= config.max_utterances
        ):
            batches.append([])
        batches[-1].append(crops[k])
    return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]


def oracle_fingerprint(ids: Sequence[str], lengths: Sequence[int], config: BatchConfig) -> str:
    """Return the hash that checkpoints hold of what is trained on."""
    listed = "".join(f"{id}\t{n}\n" for id, n in zip(ids, lengths, strict=True) if n >= config.min_s * 16_000)
    return hashlib.blake2b(listed.encode(), digest_size=8).hexdigest()
