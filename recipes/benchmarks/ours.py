"""Our own contenders: the updates of `speechssl.train.loop` themselves, and the trunk alone."""

from learners import Runner
from measuring import Outcome
from sizes import VOCABULARY, Size

from speechssl.data.batching import Batch
from speechssl.model.encoder import SpeechEncoder
from speechssl.parallel import start_ranks
from speechssl.tasks.ctc import CTCModel
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import build_objective
from speechssl.train.checkpoint import TrainState
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import OptimConfig, build_optimizer

__all__ = ["OurLearner", "our_extractor", "our_learner"]

STEPS = 10**9  # so many that the learning rate is still that of a warm-up


class OurLearner:
    """What `speechssl.train.loop.fit` does for one update, a batch at a time."""

    def __init__(self, model: PretrainModel | CTCModel, optim: OptimConfig, *, seed: int = 0) -> None:
        """Set the run up as `fit` does, without a folder."""
        ranks = start_ranks()
        self.model = model.to(ranks.device)
        self.state = TrainState()
        self.learner = Learner(
            model,
            build_optimizer(model, optim),
            seed=seed,
            optim=optim,
            config=TrainConfig(steps=STEPS),
            ranks=ranks,
        )

    def __call__(self, batch: Batch) -> Outcome:
        """Take one step."""
        update = self.learner.update(iter([(0, 1, batch)]), self.state, say=print)
        return Outcome(loss=update.loss / update.count, predicted=update.count, audio_s=batch.duration_s)


def our_learner(size: Size, task: str) -> OurLearner:
    """Build our model for `wav2vec2`, `hubert` or `ctc`."""
    dim, conv_dim = size.encoder.transformer.dim, size.encoder.conv[-1][0]
    match task:
        case "wav2vec2":
            objective = build_objective(size.contrastive, dim=dim, conv_dim=conv_dim, clusters=())
            return OurLearner(PretrainModel(SpeechEncoder(size.encoder), objective), size.optim)
        case "hubert":
            objective = build_objective(size.masked_prediction, dim=dim, conv_dim=conv_dim, clusters=size.clusters)
            return OurLearner(PretrainModel(SpeechEncoder(size.encoder), objective), size.optim)
        case "ctc":
            return OurLearner(CTCModel(SpeechEncoder(size.ctc_encoder), size.ctc, VOCABULARY), size.ctc_optim)
        case _:
            raise ValueError(f"no such task: {task}")


def our_extractor(size: Size) -> Runner:
    """Build our trunk for feature extraction."""
    encoder = SpeechEncoder(size.encoder).eval()
    return Runner(encoder, lambda batch: encoder(batch.waveforms, batch.num_samples).last)
