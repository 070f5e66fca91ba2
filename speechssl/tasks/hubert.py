"""HuBERT as a task, with the loss of `masked_prediction`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.tasks.flops import Product, masked_share
from speechssl.tasks.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from speechssl.tasks.pretraining import PretrainingTask
from speechssl.tasks.task import Need, Planned, Planning, Row, Toolkit
from speechssl.tasks.visible import number_of_masks

__all__ = ["HubertTask", "masked_prediction_products"]

_PLANNING = Planning(
    sizes={
        "small": Planned(  # recipes/registry_pool
            config=MaskedPredictionConfig(
                logits="linear", unmasked_weight=1.0, feature_penalty=0.0, mask=MaskConfig(start_prob=0.08, span=5)
            ),
            clusters=(100,),
            max_grad_norm=1.0,
            cpu_audio_s=85.0,
        ),
        "base": Planned(config=MaskedPredictionConfig(), clusters=(500,), max_grad_norm=10.0, cpu_audio_s=2.69),
        "large": Planned(
            config=MaskedPredictionConfig(dim=768),
            clusters=(500,),
            max_grad_norm=1.0,
            lr=(7200, 1.5e-3),  # arXiv:2106.07447
        ),
    },
    share=400 / 650,  # for the second iteration, as in HuBERT BASE
    before="iteration 1 on MFCC units before it: {steps}, the rest of the time",
    recipe_note="This is iteration 2; iteration 1: MFCC labels, train.steps={steps}, another out.",
    lr_note="as the batch-size study found for wav2vec 2.0; nobody published it for HuBERT",
    errors_note="that is wav2vec 2.0's; HuBERT BASE in full: 10.9 / 17.8 on 10 h of labels (torchaudio's recipe, "
    "32 GPUs, 250,000 and 400,000 updates)",
)


class HubertTask(PretrainingTask):
    """Masked prediction of hidden units: section II of HuBERT (arXiv:2106.07447)."""

    kind = "masked_prediction"
    method = "hubert"
    title = "HuBERT (masked prediction of hidden units)"
    config_type = MaskedPredictionConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    head_names = (
        Row("objective.project", "final_proj", None, "logit_generator.final_proj", None),
        Row("objective.embeddings.{i}", "label_embs_concat.{i}", None, "logit_generator.label_embeddings", None),
        # torchaudio's encoder alone has no mask vector
        Row("encoder.mask_vector", None, None, "mask_generator.mask_embedding", None),
    )
    prefixes: ClassVar[Mapping[Toolkit, str]] = {"torchaudio": "wav2vec2."}
    planning = _PLANNING

    def objective(
        self, config: MaskedPredictionConfig, *, dim: int, conv_dim: int, clusters: tuple[int, ...]
    ) -> MaskedPredictionObjective:
        """Build a head for each label stream."""
        return MaskedPredictionObjective(config, dim, clusters)

    def head_keys(self, config: MaskedPredictionConfig) -> Sequence[str]:
        """Return the keys of the kind of logits and, for cosine logits, of the size of the label embeddings."""
        return ["logits", "dim"] if config.logits == "cosine" else ["logits"]

    def products(
        self,
        config: MaskedPredictionConfig,
        encoder: EncoderConfig,
        clusters: Sequence[int],
        *,
        frames: int,
        utterances: int = 1,
    ) -> list[Product]:
        """List the products of the heads over the predicted frames of one utterance."""
        masked = round(masked_share(config.mask, frames=frames, utterances=utterances) * frames)
        masks = number_of_masks(config.visible)
        return masked_prediction_products(config, encoder, clusters, frames=masks * frames, masked=masks * masked)


def masked_prediction_products(
    config: MaskedPredictionConfig, encoder: EncoderConfig, clusters: Sequence[int], *, frames: int, masked: int
) -> list[Product]:
    """List the products of HuBERT's heads; `frames` and `masked` are numbers of frames of the whole batch."""
    rows = masked if config.unmasked_weight == 0 else frames
    project = Product("heads", rows, encoder.transformer.dim, config.dim * len(clusters))
    return [project, *(Product("heads", rows, config.dim, units) for units in clusters)]
