"""Prediction of a teacher's targets as a task, with the loss of `teacher`."""

from collections.abc import Sequence

from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.tasks.ema import EmaConfig
from speechssl.tasks.flops import Product, masked_share, transformer_products
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.pretraining import PretrainingTask
from speechssl.tasks.task import Planned, Planning
from speechssl.tasks.teacher import TeacherConfig, TeacherObjective
from speechssl.tasks.visible import number_of_masks

__all__ = ["Data2VecTask"]

_PLANNING = Planning(
    sizes={
        "small": Planned(  # recipes/registry_pool
            config=TeacherConfig(
                form="codebooks",
                layers=3,
                ema=EmaConfig(start=0.99, end=0.999, steps=1000),
                codebooks=OnlineCodebookConfig(entries=128),
                unmasked_weight=1.0,
                mask=MaskConfig(start_prob=0.08, span=5),
            ),
            max_grad_norm=1.0,
            cpu_audio_s=69.0,  # HuBERT's, by the ratio of their steps
            lr=(32, 5e-4),
        ),
        "base": Planned(config=TeacherConfig()),
        "large": Planned(config=TeacherConfig()),
    },
    lr_note="as the batch-size study found for wav2vec 2.0; data2vec BASE took the same, 5e-4, for 63 min an update",
)


class Data2VecTask(PretrainingTask):
    """Targets of a teacher: data2vec (arXiv:2202.03555) and DinoSR (arXiv:2305.10005)."""

    kind = "teacher"
    method = "data2vec"
    title = "data2vec / DinoSR (prediction of a teacher's layers)"
    config_type = TeacherConfig
    planning = _PLANNING

    def objective(
        self, config: TeacherConfig, *, dim: int, conv_dim: int, clusters: tuple[int, ...]
    ) -> TeacherObjective:
        """Build the head; `PretrainModel` adds the teacher."""
        return TeacherObjective(config, dim)

    def head_keys(self, config: TeacherConfig) -> Sequence[str]:
        """Return the keys of the sizes of the heads."""
        return ["form", "layers", "codebooks.entries"] if config.form == "codebooks" else ["form"]

    def products(
        self,
        config: TeacherConfig,
        encoder: EncoderConfig,
        clusters: Sequence[int],
        *,
        frames: int,
        utterances: int = 1,
    ) -> list[Product]:
        """List the products of teacher, codebooks and heads for one utterance."""
        masked = round(masked_share(config.mask, frames=frames, utterances=utterances) * frames)
        rows = number_of_masks(config.visible) * (masked if config.unmasked_weight == 0 else frames)
        dim, entries, layers = encoder.transformer.dim, config.codebooks.entries, config.layers
        products = transformer_products(encoder, 1, frames, is_training=False)
        if config.form == "regression":
            return [*products, Product("heads", rows, dim, dim)]
        for inner, columns in ((dim, entries), (entries, dim)):  # nearest entries, and their averages
            products.append(
                Product(
                    "codebooks",
                    frames,
                    inner,
                    columns,
                    batch=layers,
                    has_left_gradient=False,
                    has_right_gradient=False,
                )
            )
        return [*products, Product("heads", rows, dim, layers * entries)]
