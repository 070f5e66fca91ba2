"""Commands made small enough for tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_TRUNK = (
    "encoder={conv: [[8,10,5],[16,4,4],[16,4,4],[16,4,4]], "
    "transformer: {dim: 32, num_layers: 6, num_heads: 2, ffn_dim: 64, position_kernel: 8, position_groups: 4}}"
)
FEW_STEPS = ("train.steps=2", "train.save_every=1", "train.log_every=1", "train.accumulate=1", "train.workers=0")
SMALL_BATCH = ("train.bfloat16=false", "batch.seconds=20", "batch.min_s=0.1")


def smaller(arguments: list[str]) -> list[str]:
    """Return the arguments of a command with what makes it small enough for a test."""
    given = " ".join(arguments)
    match arguments[0]:
        case "cluster":
            return [*arguments, "clusters=5", "iterations=3"]
        case "sweep":
            return [*arguments, "clusters=[3,4]"]
        case "pretrain":
            trunk = () if "checkpoint=" in given else (SMALL_TRUNK,)
            return [*arguments, *trunk, *FEW_STEPS, *SMALL_BATCH]
        case "finetune" | "preflight":
            return [*arguments, *FEW_STEPS, "train.eval_every=1", *SMALL_BATCH]
        case "selftrain":
            few = [f"finetune.{each}" for each in (*FEW_STEPS, "train.eval_every=1", *SMALL_BATCH)]
            tune = ("tune={lm_weights: [0, 1], word_scores: [0, 1], rounds: 0}",) if "decode=" in given else ()
            return [*arguments, *few, *tune, "student={}", "keep.rate_margin=1000", "rounds=1", "leaks=skip"]
        case "manifest" if arguments[1] == "segment":
            return [*arguments, "--vad", "energy"]
        case "lm" if arguments[1] == "tune":
            return [*arguments, "--lm-weights", "0 1", "--word-scores", "0 1", "--rounds", "0", "--beam", "5"]
    hours = {"dev=0.1,test=0.2,train=rest": "dev=0.0005,test=0.0005,train=rest", "0.17": "0.001", "0.01": "0.001"}
    return [hours.get(word, word) for word in arguments]
