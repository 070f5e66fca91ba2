"""The same architecture and losses as ours from PyTorch's own modules, written the obvious way.

nn.Conv1d, nn.GroupNorm, nn.GELU, nn.TransformerEncoder over nn.MultiheadAttention, functional losses: what one writes
in a day, and what our small configuration is measured against. Group norm only in layer 0 and post-norm, as there.
"""

from collections.abc import Callable

import torch
from learners import Learner, Runner, plain_adamw
from sizes import VOCABULARY, Size
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from speechssl.data.batching import Batch
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count, within
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig

__all__ = ["PLAIN", "PlainCTC", "PlainContrastive", "PlainEncoder", "PlainMaskedPrediction", "draw_mask"]


class PlainEncoder(nn.Module):
    """Convolutions, projection, positions, nn.TransformerEncoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        transformer = config.transformer
        layers: list[nn.Module] = []
        in_channels = 1
        for index, (channels, kernel, stride) in enumerate(config.conv):
            layers.append(nn.Conv1d(in_channels, channels, kernel, stride, bias=config.conv_bias))
            if index == 0:
                layers.append(nn.GroupNorm(channels, channels))
            layers.append(nn.GELU())
            in_channels = channels
        self.conv = nn.Sequential(*layers)
        self.features_norm = nn.LayerNorm(in_channels)
        self.project = nn.Linear(in_channels, transformer.dim)
        self.features_dropout = nn.Dropout(config.feature_dropout)
        self.mask_vector = nn.Parameter(torch.rand(transformer.dim))
        kernel = transformer.position_kernel
        positions = nn.Conv1d(
            transformer.dim, transformer.dim, kernel, padding=kernel // 2, groups=transformer.position_groups
        )
        self.positions = weight_norm(positions, dim=2)
        self.norm = nn.LayerNorm(transformer.dim)
        self.dropout = nn.Dropout(transformer.dropout)
        layer = nn.TransformerEncoderLayer(
            transformer.dim,
            transformer.num_heads,
            transformer.ffn_dim,
            dropout=transformer.dropout,
            activation="gelu",
            batch_first=True,
        )
        layer.dropout = nn.Dropout(transformer.activation_dropout)  # the one between the two linear maps
        layer.self_attn.dropout = transformer.attention_dropout
        self.transformer = nn.TransformerEncoder(layer, transformer.num_layers, enable_nested_tensor=False)

    def forward(
        self, batch: Batch, is_masked: Tensor | None = None, is_channel_masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return extractor's output, the same after layer norm, last layer (batch, frames, dim), and what is valid."""
        conv = self.conv(batch.waveforms[:, None]).transpose(1, 2)  # (batch, frames, channels)
        is_valid = within(frame_count(batch.num_samples, self.config.conv), conv.shape[1])
        features = self.features_norm(conv)
        x = self.features_dropout(self.project(features))
        if is_masked is not None:
            x = torch.where(is_masked[..., None], self.mask_vector, x)
        if is_channel_masked is not None:
            x = x.masked_fill(is_channel_masked[:, None], 0.0)
        is_padded = not bool(is_valid.all())
        if is_padded:
            x = x.masked_fill(~is_valid[..., None], 0.0)
        positions = self.positions(x.transpose(1, 2))[..., : x.shape[1]]
        x = self.dropout(self.norm(x + functional.gelu(positions).transpose(1, 2)))
        x = self.transformer(x, src_key_padding_mask=~is_valid if is_padded else None)
        return conv, features, x, is_valid


def draw_mask(counts: list[int], size: int, config: MaskConfig) -> Tensor:
    """Draw spans for every row, (batch, size) bool: starts without replacement, spans may overlap."""
    is_masked = torch.zeros(len(counts), size, dtype=torch.bool)
    for row, count in enumerate(counts):
        spans = max(config.min_spans, int(config.start_prob * count + float(torch.rand(()))))
        for start in torch.randperm(max(count - config.span + 1, 1))[:spans].tolist():
            is_masked[row, start : min(start + config.span, count)] = True
    return is_masked


class PlainContrastive(nn.Module):
    """wav2vec 2.0: quantizer, negatives copied out, cosine similarity, cross-entropy."""

    def __init__(self, encoder: EncoderConfig, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        quantizer, channels = config.quantizer, encoder.conv[-1][0]
        self.encoder = PlainEncoder(encoder)
        self.dropout = nn.Dropout(config.feature_dropout)
        self.score = nn.Linear(channels, quantizer.groups * quantizer.entries)
        self.codebook = nn.Parameter(torch.rand(quantizer.groups, quantizer.entries, quantizer.dim // quantizer.groups))
        self.project_quantized = nn.Linear(quantizer.dim, config.dim)
        self.project_context = nn.Linear(encoder.transformer.dim, config.dim)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss and the number of masked frames."""
        config, quantizer = self.config, self.config.quantizer
        counts = frame_count(batch.num_samples, self.encoder.config.conv)
        is_masked = draw_mask(counts.tolist(), int(counts.max()), config.mask)
        conv, features, last, is_valid = self.encoder(batch, is_masked)
        scores = self.score(self.dropout(features[is_masked])).view(-1, quantizer.groups, quantizer.entries)
        chosen = functional.gumbel_softmax(scores, tau=quantizer.max_temperature, hard=True)
        vectors = torch.einsum("fge,ged->fgd", chosen, self.codebook).flatten(1)
        targets = self.project_quantized(vectors)
        context = self.project_context(last[is_masked])
        candidates = torch.cat([targets[:, None], targets[self._negatives(is_masked)]], 1)
        logits = torch.cosine_similarity(context[:, None], candidates, dim=-1) / config.temperature
        is_equal = (candidates[:, 1:] == candidates[:, :1]).all(-1)
        logits[:, 1:] = logits[:, 1:].masked_fill(is_equal, -torch.inf)
        count = len(targets)
        loss = functional.cross_entropy(logits, torch.zeros(count, dtype=torch.long), reduction="sum")
        usage = scores.softmax(-1).mean(0)
        perplexity = torch.exp(-(usage * torch.log(usage + 1e-7)).sum(-1)).sum()
        entries = quantizer.groups * quantizer.entries
        diversity = (entries - perplexity) / entries
        penalty = conv[is_valid].square().mean()
        return loss + count * (config.diversity_weight * diversity + config.feature_penalty * penalty), count

    def _negatives(self, is_masked: Tensor) -> Tensor:
        """Draw other masked frames of the same utterance, (masked, negatives), as positions among all masked frames."""
        drawn, start = [], 0
        for size in is_masked.sum(1).tolist():
            position = torch.arange(size)[:, None]
            others = torch.randint(0, max(size - 1, 1), (size, self.config.negatives))
            drawn.append(start + others + (others >= position).long())
            start += size
        return torch.cat(drawn)


class PlainMaskedPrediction(nn.Module):
    """HuBERT: cosine logits for each stream of labels, cross-entropy over masked and over unmasked frames."""

    def __init__(self, encoder: EncoderConfig, config: MaskedPredictionConfig, clusters: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.encoder = PlainEncoder(encoder)
        self.projections = nn.ModuleList(nn.Linear(encoder.transformer.dim, config.dim) for _ in clusters)
        self.embeddings = nn.ParameterList(nn.Parameter(torch.rand(k, config.dim)) for k in clusters)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss and the number of frames it weighs."""
        assert batch.labels is not None
        config = self.config
        counts = frame_count(batch.num_samples, self.encoder.config.conv)
        is_masked = draw_mask(counts.tolist(), int(counts.max()), config.mask)
        conv, _, last, is_valid = self.encoder(batch, is_masked)
        count = 0
        loss = last.new_zeros(())
        for is_chosen, weight in ((is_masked, config.masked_weight), (~is_masked & is_valid, config.unmasked_weight)):
            if weight == 0:
                continue
            chosen = last[is_chosen]
            count += len(chosen)
            for labels, project, embeddings in zip(batch.labels, self.projections, self.embeddings, strict=True):
                projected = functional.normalize(project(chosen), dim=-1)
                logits = projected @ functional.normalize(embeddings, dim=-1).T / config.temperature
                loss = loss + weight * functional.cross_entropy(logits, labels[is_chosen], reduction="sum")
        return loss + config.feature_penalty * count * conv[is_valid].square().mean(), count


class PlainCTC(nn.Module):
    """Fine-tuning: frozen convolutions, masks over frames and channels, nn.CTCLoss."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.config = size.ctc
        self.encoder = PlainEncoder(size.ctc_encoder)
        self.encoder.conv.requires_grad_(False)
        self.head = nn.Linear(size.ctc_encoder.transformer.dim, VOCABULARY)
        self.loss = nn.CTCLoss(reduction="sum", zero_infinity=True)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss and the number of utterances."""
        counts = frame_count(batch.num_samples, self.encoder.config.conv)
        dim = self.encoder.config.transformer.dim
        is_masked = draw_mask(counts.tolist(), int(counts.max()), self.config.mask)
        is_channel_masked = draw_mask([dim] * len(counts), dim, self.config.channel_mask)
        _, _, last, _ = self.encoder(batch, is_masked, is_channel_masked)
        log_probabilities = self.head(last).log_softmax(-1).transpose(0, 1)
        return self.loss(log_probabilities, batch.targets, counts, batch.target_lengths), len(counts)


def _learner(model: nn.Module, size: Size, task: str) -> Learner:
    optim = size.ctc_optim if task == "ctc" else size.optim
    return Learner(model.train(), model, plain_adamw(model, optim), optim.max_grad_norm)


def _extractor(size: Size) -> Runner:
    encoder = PlainEncoder(size.encoder).eval()
    return Runner(encoder, lambda batch: encoder(batch)[2])


PLAIN: dict[str, Callable[[Size], Learner | Runner]] = {
    "wav2vec2": lambda size: _learner(PlainContrastive(size.encoder, size.contrastive), size, "wav2vec2"),
    "hubert": lambda size: _learner(
        PlainMaskedPrediction(size.encoder, size.masked_prediction, size.clusters), size, "hubert"
    ),
    "ctc": lambda size: _learner(PlainCTC(size), size, "ctc"),
    "extract": _extractor,
}
