"""BEST-RQ as a task, with the loss of `random_projection`."""

from collections.abc import Sequence

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.log_mel import stacked
from speechssl.model.masking import MaskConfig
from speechssl.tasks.flops import Product, masked_share
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.random_projection import RandomProjectionConfig, RandomProjectionObjective
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.task import DataSizes, Planned, Planning, Task
from speechssl.tasks.visible import number_of_masks

__all__ = ["BestRQTask"]

_PLANNING = Planning(
    sizes={
        "small": Planned(  # recipes/registry_pool
            config=RandomProjectionConfig(
                unmasked_weight=1.0,
                codebook=CodebookConfig(entries=256, projection="pca", update="ema"),
                mask=MaskConfig(start_prob=0.08, span=5),
            ),
            max_grad_norm=1.0,
            cpu_audio_s=79.0,  # 93 % of HuBERT's, side by side
        ),
        "base": Planned(config=RandomProjectionConfig(), max_grad_norm=10.0),
    },
    errors_note="that is wav2vec 2.0's; nobody published BEST-RQ on this encoder",
)


class BestRQTask(Task):
    """Prediction of random-projection codes: section 3 of BEST-RQ (arXiv:2202.01855)."""

    kind = "random_projection"
    method = "best-rq"
    title = "BEST-RQ (masked prediction of random-projection codes)"
    config_type = RandomProjectionConfig
    planning = _PLANNING

    def build(self, config: RandomProjectionConfig, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        """Put quantizer and heads on an encoder.

        Raises:
            ConfigError: the codebooks do not fit the encoder's frame rate.
            LabelError: labels are given, which it would ignore.
        """
        self.check(sizes)
        return PretrainModel(encoder, RandomProjectionObjective(config, encoder.config))

    def head_keys(self, config: RandomProjectionConfig) -> Sequence[str]:
        """Return the keys of the sizes of projections, codebooks and heads, and of what is saved with them."""
        return [f"codebook.{key}" for key in ("number", "entries", "dim", "bins", "projection", "update")]

    def products(
        self,
        config: RandomProjectionConfig,
        encoder: EncoderConfig,
        clusters: Sequence[int],
        *,
        frames: int,
        utterances: int = 1,
    ) -> list[Product]:
        """List the products of the heads over the predicted frames of one utterance, and those of the targets."""
        book = config.codebook
        masked = round(masked_share(config.mask, frames=frames, utterances=utterances) * frames)
        rows = number_of_masks(config.visible) * (masked if config.unmasked_weight == 0 else frames)
        in_dim = stacked(encoder.hop) * book.bins

        def target(inner: int, columns: int) -> Product:
            return Product(
                "targets",
                frames,
                inner,
                columns,
                batch=book.number,
                has_left_gradient=False,
                has_right_gradient=False,
            )

        heads = Product("heads", rows, encoder.transformer.dim, book.number * book.entries)
        return [heads, target(in_dim, book.dim), target(book.dim, book.entries)]
