"""The rows of every part, by work and who, in the order of their worth: what parts measure and the report leaves blank.

It imports no part: a part that cannot even be imported must not take the report with it.
"""

__all__ = ["AGREEMENT", "CLUSTERING", "RECOGNISING", "STEPPING", "TRACING"]

OURS, PEER = "speechssl", "transformers"
Rows = list[tuple[str, str]]

# agreement.py
TASKS = ("wav2vec2", "hubert", "ctc")
CLUSTERED = ((200_000, 39, 100), (30_000, 768, 500))
EXACT, ROUNDED = "float32 against the CPU's float64", "bfloat16 against float32"
LABELS, INERTIA = "labels against the CPU's", "inertia of a fit over the CPU's"
RESUMED, KERNELS, WAITS = "resumed against uninterrupted", "calls of the CPU's kernels", "waits in an update"
MODES = ("ddp", "fsdp")
MARKED = ("tests marked gpu", "pytest")


def clustered(number: int, dim: int, clusters: int) -> str:
    """Name a comparison of labels."""
    return f"k-means {number:,} x {dim}, K={clusters}"


def one_rank(mode: str) -> str:
    """Name a comparison of one rank with none."""
    return f"{mode}, one rank, against none"


AGREEMENT: Rows = [
    *((f"{name} {task}", kind) for name in ("BASE", "LARGE") for task in TASKS for kind in (EXACT, ROUNDED)),
    *((clustered(*shape), kind) for shape in CLUSTERED for kind in (LABELS, INERTIA)),
    *((task, kind) for task in TASKS for kind in (KERNELS, WAITS, RESUMED)),
    *((task, one_rank(mode)) for task in TASKS for mode in MODES),
    MARKED,
]

# clustering.py
SHAPES = ((10_000_000, 39, (100,)), (2_000_000, 768, (500, 2000)))
PRECISIONS = ("bfloat16", "tf32", "float32")
OURS_PLAIN, PLAIN, FLASH, FAST = "speechssl, plain", "torch, plain expression", "flash-kmeans", "fastkmeans"
CLUSTERERS = (OURS, FLASH, OURS_PLAIN, PLAIN, FAST)
STORED = (1_000_000, 768, 500)
FILES = "files of {:,} x {} float16, K={}".format(*STORED)


def clustering(number: int, dim: int, clusters: int, precision: str) -> str:
    """Name a size of k-means."""
    return f"{number:,} x {dim}, K={clusters:,}, {precision}"


CLUSTERING: Rows = [
    *(
        (clustering(number, dim, clusters, precision), who)
        for precision in PRECISIONS
        for number, dim, sizes in SHAPES
        for clusters in sizes
        for who in CLUSTERERS
    ),
    (FILES, OURS),
]

# stepping.py
MODELS = (("BASE", "wav2vec2"), ("BASE", "hubert"), ("LARGE", "wav2vec2"), ("LARGE", "hubert"))
VARIANTS = ("speechssl, packed", "speechssl, compiled", "speechssl, packed, compiled")
STEPPING: Rows = [
    (f"{size} {task}", who)
    for size, task in MODELS
    for who in (OURS, *([PEER] if task == "wav2vec2" else []), *VARIANTS)  # transformers has no HuBERT objective
]

# recognising.py
FINETUNING = "BASE, fine-tuning step, bfloat16"
KINDS = ("bfloat16", "float32")


def heard(work: str, kind: str) -> str:
    """Name `texts` or `features`."""
    return f"BASE, {work} of 2 h, {kind}"


RECOGNISING: Rows = [
    (work, who)
    for work in (FINETUNING, *(heard(work, kind) for work in ("texts", "features") for kind in KINDS))
    for who in (OURS, PEER)
]

# tracing.py
STEP, IN_ALL = "BASE wav2vec2, a step", "in all"
POSITIONS = (
    "positions, convolution in bfloat16",
    "positions, frequencies in float32",
    "positions, frequencies in tf32",
)
LAYERS = ("layers of BASE, padded", "layers of BASE, packed")
TRACING: Rows = [(STEP, IN_ALL), *((choice, OURS) for choice in (*POSITIONS, *LAYERS))]
