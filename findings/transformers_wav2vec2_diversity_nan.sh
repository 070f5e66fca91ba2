#!/usr/bin/env bash
# Pretraining wav2vec 2.0 with transformers 5 gets NaN gradients from the diversity loss when an entry of a codebook has
# a probability of exactly 0; with 4.57 it does not. The loss itself is finite in both.
#
# From 5.2.0 on `_compute_perplexity` is exp(-sum(xlogy(p, p))), exact where it had log(p + 1e-7). One guesses that this
# is the safer of the two, as x log x is 0 at 0. Its gradient is not: log 0 + 1 is minus infinity, and times the 0 of the
# softmax's own gradient it is NaN, in the quantizer and from there in the extractor. In float32 a probability is 0 once
# its logit lies 104 below the largest: what a collapsing codebook, or a model started from another's weights, comes to.
# The reference of the method (fairseq, fairseq2) has the 1e-7.
#
# Here one entry of each group leads by 0, 100 and 110. Seen on 2026-11-28 (Python 3.11, CPU), the number of gradient
# entries that are not finite, of 17,360 in the quantizer and the extractor:
#   transformers 4.57.6      0, 0, 0
#   transformers 5.24.0      0, 0, 17360
# Exits 1 when it finds something else. Downloads 3 GB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3}
cat >"$folder/leads.py" <<'PYTHON'
import torch
import transformers
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

FRAMES, MASKED = 49, slice(5, 25)
SIZES = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, conv_dim=(32,) * 7)
POSITIONS = dict(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, layerdrop=0.0)
CODES = dict(codevector_dim=16, proj_codevector_dim=16, num_codevectors_per_group=8)

found = []
for lead in (0.0, 100.0, 110.0):
    torch.manual_seed(0)
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**SIZES, **POSITIONS, **CODES)).train()
    with torch.no_grad():
        model.quantizer.weight_proj.weight.zero_()
        model.quantizer.weight_proj.bias.zero_()
        model.quantizer.weight_proj.bias[[0, 8]] = lead  # the first entry of either group
    is_masked = torch.zeros(2, FRAMES, dtype=torch.bool)
    is_masked[:, MASKED] = True
    distractors = torch.randint(5, 25, (2, FRAMES, 5)) + FRAMES * torch.arange(2)[:, None, None]
    loss = model(torch.randn(2, 16_000), mask_time_indices=is_masked, sampled_negative_indices=distractors).loss
    assert loss.isfinite()
    loss.backward()
    broken = sum(int((~p.grad.isfinite()).sum()) for p in model.parameters() if p.grad is not None)
    found.append(broken)
print(transformers.__version__, *found)
PYTHON

try() {  # transformers, what the script shall print after it
    "$python" -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip --quiet install torch==2.9.1 numpy==2.4.6 "transformers==$1"
    local said
    said=$("$folder/venv/bin/python" -W ignore "$folder/leads.py" 2>/dev/null)
    echo "transformers $said"
    [ "$said" = "$1 $2" ] || { echo "expected: $1 $2"; exit 1; }
}

try 4.57.6 "0 0 0"
try 5.24.0 "0 0 17360"
