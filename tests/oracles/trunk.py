"""The trunk one utterance at a time: library convolutions and norms, attention from its definition."""

import math

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.conv import ConvFeatureExtractor


def oracle_extract(extractor: ConvFeatureExtractor, waveform: Tensor) -> Tensor:
    """Run `nn.Conv1d` after `nn.Conv1d` over one utterance without padding: (time,) to (frames, channels)."""
    x = waveform[None, None]  # (1, 1, time)
    for index, conv in enumerate(extractor.convs):
        assert isinstance(conv, nn.Conv1d)
        x = conv(x)
        if extractor.norm == "layer":
            norm = extractor.norms[index]
            x = functional.layer_norm(x.transpose(1, 2), (x.shape[1],), norm.weight, norm.bias).transpose(1, 2)
        elif index == 0:
            norm = extractor.norms[0]
            x = functional.group_norm(x, x.shape[1], norm.weight, norm.bias)
        x = functional.gelu(x)
    return x[0].T


def oracle_log_mel_extract(extractor: ConvFeatureExtractor, waveform: Tensor) -> Tensor:
    """Run torchaudio's filter banks and `nn.Conv1d` over one utterance: (time,) to (frames, channels)."""
    x = torchaudio.compliance.kaldi.fbank(waveform[None], num_mel_bins=extractor.stack[0][0])  # (steps, bins)
    weight, bias = extractor.norms[0].weight, extractor.norms[0].bias
    if extractor.norm == "layer":
        x = functional.layer_norm(x, (x.shape[1],), weight, bias)
    else:
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * weight + bias
    for index, conv in list(enumerate(extractor.convs))[1:]:
        x = conv(x.T).T
        if extractor.norm == "layer":
            norm = extractor.norms[index]
            x = functional.layer_norm(x, (x.shape[1],), norm.weight, norm.bias)
        x = functional.gelu(x)
    return x


def oracle_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Attend head by head and frame by frame: three (frames, dim) tensors to (frames, dim)."""
    frames, dim = query.shape
    size = dim // num_heads
    out = torch.zeros(frames, dim)
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(frames):
            scores = [math.exp(float(query[i, part] @ key[j, part]) / math.sqrt(size)) for j in range(frames)]
            out[i, part] = sum(score * value[j, part] for j, score in enumerate(scores)) / sum(scores)
    return out


def oracle_grouped_conv(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolve (frames, dim), zeros around it, so that output i sees frames from i - kernel // 2 on."""
    frames, dim = x.shape
    kernel = weight.shape[2]
    size = dim // groups
    out = bias.repeat(frames, 1)
    for i in range(frames):
        for tap in range(kernel):
            source = i - kernel // 2 + tap
            if 0 <= source < frames:
                for channel in range(dim):
                    group = channel // size
                    out[i, channel] += weight[channel, :, tap] @ x[source, group * size : (group + 1) * size]
    return out
