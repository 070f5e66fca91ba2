"""wav2vec 2.0 as a task, with the loss of `contrastive`."""

from collections.abc import Sequence

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.log_mel import stacked
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.tasks.flops import Product, masked_share, trunk_products
from speechssl.tasks.pretraining import PretrainingTask, PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.task import DataSizes, Planned, Planning, Row

__all__ = ["Wav2Vec2Task", "contrastive_products"]

_PLANNING = Planning(
    sizes={
        "small": Planned(  # recipes/registry_pool
            config=ContrastiveConfig(
                dim=128,
                feature_penalty=1.0,
                feature_dropout=0.0,
                quantizer=QuantizerConfig(entries=16, dim=128, decay=0.9995),
                mask=MaskConfig(start_prob=0.1, span=3),
            ),
            max_grad_norm=1.0,
            cpu_audio_s=86.0,
        ),
        "base": Planned(config=ContrastiveConfig(), cpu_audio_s=2.11),
        "large": Planned(
            config=ContrastiveConfig(
                dim=768,
                feature_penalty=0.0,
                feature_dropout=0.0,
                quantizer=QuantizerConfig(dim=768, min_temperature=0.1),
            ),
            lr=(9600, 3e-4),  # arXiv:2006.11477
        ),
    },
    lr_note="as the batch-size study found for such a batch",
    needs_seen="wav2vec 2.0 needs more before ten labelled minutes are of use; BASE has a WER of 103 % after 2,100 h "
    "seen and 99 % after 4,200 h{small}; take HuBERT or BEST-RQ (methods hubert and best-rq), or go on from a public "
    "model (recipes/adapt)",
    small_seen=", no curve of a smaller model is published, and ours reads no better than random weights after 60 to "
    "190 h seen, where HuBERT does (recipes/README.md)",
)


class Wav2Vec2Task(PretrainingTask):
    """Contrastive pretraining: section 3.2 of wav2vec 2.0 (arXiv:2006.11477)."""

    kind = "contrastive"
    method = "wav2vec2"
    title = "wav2vec 2.0 (contrastive task over quantized, masked latents)"
    config_type = ContrastiveConfig
    head_names = (
        Row(
            "objective.quantizer.score", "quantizer.weight_proj", "quantizer.weight_proj", None, "quantizer.entry_proj"
        ),
        Row("objective.quantizer.codebook", "quantizer.vars", "quantizer.codevectors", None, "quantizer.entries"),
        Row("objective.project_quantized", "project_q", "project_q", None, "final_target_proj"),
        Row("objective.project_context", "final_proj", "project_hid", None, "final_proj"),
    )
    planning = _PLANNING

    def build(self, config: ContrastiveConfig, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        """Put the objective on an encoder, whose frames determine the shape of log-mel targets.

        Raises:
            ConfigError: log-mel targets do not fit the encoder's frames.
            LabelError: labels are given.
        """
        self.check(sizes)
        shape = encoder.config
        conv_dim = encoder.norm.weight.shape[0]
        return PretrainModel(encoder, ContrastiveObjective(config, encoder.dim, conv_dim, shape))

    def objective(
        self, config: ContrastiveConfig, *, dim: int, conv_dim: int, clusters: tuple[int, ...]
    ) -> ContrastiveObjective:
        """Build quantizer and projections."""
        return ContrastiveObjective(config, dim, conv_dim)

    def head_keys(self, config: ContrastiveConfig) -> Sequence[str]:
        """Return the keys of the sizes of projections and codebooks."""
        source = ["targets", "log_mel.bins"] if config.targets == "log_mel" else ["targets"]
        return ["dim", *source, "quantizer.groups", "quantizer.entries", "quantizer.dim"]

    def is_elsewhere(self, config: ContrastiveConfig) -> bool:
        """Return whether the quantizer takes the extractor's output, as everywhere else."""
        return config.targets == "extractor"

    def products(
        self,
        config: ContrastiveConfig,
        encoder: EncoderConfig,
        clusters: Sequence[int],
        *,
        frames: int,
        utterances: int = 1,
    ) -> list[Product]:
        """List the products of the heads over the masked frames of one utterance."""
        masked = round(masked_share(config.mask, frames=frames, utterances=utterances) * frames)
        heads = contrastive_products(config, encoder, 1, masked)
        if not config.copy.is_on or config.targets == "log_mel":
            return heads
        samples = (frames - 1) * encoder.hop + encoder.window
        trunk = trunk_products(encoder, 1, samples, trains_conv=encoder.conv_grad_scale > 0)
        return heads + [
            product for product in trunk if product.part.startswith(("log-mel", "extractor"))
        ]  # of the copy


def contrastive_products(
    config: ContrastiveConfig, encoder: EncoderConfig, utterances: int, masked: int
) -> list[Product]:
    """List the products of wav2vec 2.0's heads; `masked` is the number of masked frames in the whole batch."""
    quantizer = config.quantizer
    dim, conv_dim = encoder.transformer.dim, encoder.conv[-1][0]
    own = max(masked // utterances, 1)
    is_log_mel = config.targets == "log_mel"
    quantized_dim = config.log_mel.bins * stacked(encoder.hop) if is_log_mel else conv_dim
    return [
        Product(
            "heads",
            masked,
            quantized_dim,
            quantizer.groups * quantizer.entries,
            has_left_gradient=not is_log_mel,
        ),
        # the forward pass looks up a row of the codebook; the backward pass needs the gradient of every entry
        Product(
            "heads",
            masked,
            quantizer.entries,
            quantizer.dim // quantizer.groups,
            batch=quantizer.groups,
            has_forward=False,
            has_right_gradient=False,
        ),
        Product("heads", masked, quantizer.dim, config.dim),
        Product("heads", masked, dim, config.dim),
        Product("heads", own, config.dim, min(own, 1 + config.negatives), batch=utterances),
    ]
