#!/usr/bin/env bash
# Fine-tune a published BASE model on LibriSpeech's labels with the reference's settings, and score both test sets.
#
#   MODEL=wav2vec2-base LIBRISPEECH=LibriSpeech LIBRI_LIGHT=librispeech_finetuning recipes/finetune/run.sh 10min
#
# The set: 10min, 1h, 10h, 100h of wav2vec 2.0, or 10h_hubert of HuBERT. MODEL: any format that `speechssl info` reads,
# or a run. LIBRISPEECH: holds dev-other, test-clean, test-other, and train-clean-100 for 100h; LIBRI_LIGHT: 1h and 9h.
# GPUS: how many (1); a step has the same 1600 s of audio on 1, 2, 4 or 8 (HuBERT: 200 s, on 1). OUT: run folder.
# Expect, without a language model, of test-clean/test-other (arXiv:2006.11477 v3): WER 46.9/50.9 for 10min,
# 24.5/29.7 for 1h, 11.1/17.6 for 10h, 6.1/13.3 for 100h. Rehearsed on made-up audio; no figure was measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
recipe=recipes/finetune set=${1:?say which set: 10min, 1h, 10h, 100h or 10h_hubert} gpus=${GPUS:-1} run=${OUT:-runs/finetune}
[ $# -gt 0 ] && shift
case $set in
    10min) chosen=$recipe/ctc_10min.yaml train=$run/libri-light/train-10min.tsv batches=8 ;;
    1h) chosen=$recipe/ctc_1h.yaml train=$run/libri-light/train-1h.tsv batches=8 ;;
    10h) chosen=$recipe/ctc_10h.yaml train=$run/libri-light/train-10h.tsv batches=8 ;;
    100h) chosen=$recipe/ctc_100h.yaml train=$run/librispeech/train-clean-100.tsv batches=8 ;;
    10h_hubert) chosen=$recipe/ctc_10h_hubert.yaml train=$run/libri-light/train-10h.tsv batches=1 ;;
    *) echo "no such set: $set" >&2; exit 2 ;;
esac
[ $((batches % gpus)) = 0 ] || { echo "$set takes $batches batches a step: GPUS must divide it, found $gpus" >&2; exit 2; }

[ -e "$run/librispeech/dev-other.tsv" ] || speechssl corpus librispeech --source "$LIBRISPEECH" --out "$run/librispeech"
case $train in */libri-light/*)
    [ -e "$train" ] || speechssl corpus libri-light --source "$LIBRI_LIGHT" --out "$run/libri-light" ;;
esac
[ -e "$run/model" ] || speechssl convert "$MODEL" "$run/model" --to speechssl
launch=(speechssl)
[ "$gpus" = 1 ] || launch=(torchrun --nproc-per-node="$gpus" -m speechssl)
"${launch[@]}" finetune "$chosen" "out=$run/$set" "checkpoint=$run/model" "data.manifests=[$train]" \
    "dev.manifests=[$run/librispeech/dev-other.tsv]" "train.accumulate=$((batches / gpus))" "$@"
finished "$run/$set"
for test in test-clean test-other; do
    speechssl transcribe "$run/$set" "$run/librispeech/$test.tsv" --out "$run/$set/$test.tsv"
    speechssl score "$run/librispeech/$test.tsv" "$run/$set/$test.tsv" --out "$run/$set/$test.json"
done
