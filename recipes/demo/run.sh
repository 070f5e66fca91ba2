#!/usr/bin/env bash
# The whole main job on real speech, on two CPU cores, in less than half an hour: `make demo`.
#
# Corpus: festvox-ru (Russian, one speaker: 80 min without text, of which 10 min are transcribed) or asterisk
# (five languages without text, 10 min of English transcribed). Each step is passed over when it is finished already.
# Expect: the measured table in recipes/README.md. Needs: 2 cores, 4 GB of memory, 1 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
. recipes/which_corpus.sh
corpus=${CORPUS:-festvox-ru} method=${METHOD:-hubert} seed=${SEED:-0}
recipe=recipes/demo
data=runs/demo/$corpus
run=${RUN:-runs/demo/$corpus-$method-seed$seed}
lists="[$data/pool.tsv]"
phones=null
[ "$corpus" != festvox-ru ] || phones=$data/phones.tsv

speechssl corpus "$(which_corpus "$corpus")" --out "$data" --splits "manifests/$corpus"
if [ "$method" = hubert ]; then
    speechssl cluster $recipe/units.yaml "out=$run/units-mfcc" "data.manifests=$lists" "phones=$phones" "seed=$seed"
    set -- "labels=[$run/units-mfcc/labels.tsv]"
fi
speechssl pretrain "$recipe/$method.yaml" "out=$run/pretrain" "data.manifests=$lists" "seed=$seed" "$@"
finished "$run/pretrain"
speechssl cluster $recipe/units_of_layer.yaml "out=$run/units-pretrained" "checkpoint=$run/pretrain" \
    "data.manifests=$lists" "phones=$phones" "seed=$seed"
recognise() {  # folder, recipe, overrides
    asr=$run/$1 yaml=$recipe/$2.yaml
    shift 2
    speechssl finetune "$yaml" "out=$asr" "checkpoint=$run/pretrain" \
        "data.manifests=[$data/train.tsv]" "dev.manifests=[$data/dev.tsv]" "seed=$seed" "$@"
    finished "$asr"
    speechssl transcribe "$asr" "$data/test.tsv" --out "$asr/test.tsv"
    speechssl score "$data/test.tsv" "$asr/test.tsv" --out "$asr/test.json"
}
case $method in  # as measured
    wav2vec2) recognise pretrained pretrained_frozen ;;
    *) recognise pretrained pretrained ;;
esac
recognise scratch scratch  # the rate at which it does best, when it leaves the blank plateau at all
recognise scratch-slow scratch optim.lr=0.001  # and one at which it always does; dev says which counts
speechssl plot "$run"/units-*/labels.tsv --manifest "$data/pool.tsv" --out "$run/units.png"
speechssl report "$run"
