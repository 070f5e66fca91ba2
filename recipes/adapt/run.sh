#!/usr/bin/env bash
# Take somebody's BASE or LARGE model, go on pretraining it on speech of your language, fine-tune on your labelled hour.
#
#   MODEL=wav2vec2-base POOL=pool.tsv TRAIN=train.tsv DEV=dev.tsv TEST=test.tsv recipes/adapt/run.sh
#
# MODEL: folder of transformers, or a file of fairseq, torchaudio or fairseq2 (`speechssl info MODEL` says what it is).
# METHOD: wav2vec2 (default; a model with its quantizer keeps it, another needs FRESH_HEAD=true) or hubert, which makes
# units from layer 9 of the model first and always starts a fresh head. OUT: run folder.
# CTC has the reference's settings for BASE on one hour of Libri-Light.
# Needs: an accelerator with 16 GB or more. Both steps are tested with a small model; no figure was measured yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
method=${METHOD:-wav2vec2} run=${OUT:-runs/adapt} seed=${SEED:-0} fresh=${FRESH_HEAD:-false}
recipe=recipes/adapt

[ -e "$run/model" ] || speechssl convert "$MODEL" "$run/model" --to speechssl
set -- "data.manifests=[$POOL]" "checkpoint=$run/model" "seed=$seed"
if [ "$method" = hubert ]; then
    speechssl cluster $recipe/units.yaml "out=$run/units" "$@"
    set -- "$@" "labels=[$run/units/labels.tsv]"
    fresh=true
fi
speechssl pretrain "$recipe/$method.yaml" "out=$run/pretrain" "fresh_head=$fresh" "$@"
finished "$run/pretrain"
speechssl finetune recipes/finetune/ctc_1h.yaml "out=$run/ctc" "checkpoint=$run/pretrain" "seed=$seed" \
    "data.manifests=[$TRAIN]" "dev.manifests=[$DEV]" train.eval_every=500 train.workers=4
finished "$run/ctc"
speechssl transcribe "$run/ctc" "$TEST" --out "$run/ctc/test.tsv"
speechssl score "$TEST" "$run/ctc/test.tsv" --out "$run/ctc/test.json"
