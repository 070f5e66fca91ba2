#!/usr/bin/env bash
# Ten languages without text, about nine hours, pretrain one encoder; ten labelled minutes of each of three corpora
# fine-tune it: Russian (festvox-ru), English (asterisk-en) and Dutch (fillets-nl), against random weights.
#
# Two hours of CPU for each method (METHOD=hubert, wav2vec2 or best_rq), resumable. Measured: recipes/README.md.
# Needs: 2 cores, 4 GB of memory, 3 GB of disk, Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
. recipes/which_corpus.sh
method=${METHOD:-hubert} seed=${SEED:-0}
recipe=recipes/registry_pool
data=runs/registry_pool/corpora
run=${RUN:-runs/registry_pool/$method-seed$seed}

pools=""
for corpus in festvox-ru asterisk fillets-nl fillets-cs tuxpaint; do
    speechssl corpus "$(which_corpus "$corpus")" --out "$data/$corpus" --splits "manifests/$corpus"
    pools="$pools${pools:+,}$data/$corpus/pool.tsv"
done
if [ "$method" = hubert ]; then  # two streams of labels, coarse and fine, each with a head of its own
    for clusters in 100 500; do
        speechssl cluster $recipe/units.yaml "out=$run/units-$clusters" "clusters=$clusters" "data.manifests=[$pools]" \
            "seed=$seed" "phones=$data/festvox-ru/phones.tsv"
    done
    set -- "labels=[$run/units-100/labels.tsv,$run/units-500/labels.tsv]"
fi
speechssl pretrain "$recipe/$method.yaml" "out=$run/pretrain" "data.manifests=[$pools]" "seed=$seed" "$@"
finished "$run/pretrain"
recognise() {  # corpus, folder, recipe, overrides
    corpus=$1 asr=$run/$1-$2 yaml=$recipe/$3.yaml
    shift 3
    speechssl finetune "$yaml" "out=$asr" "checkpoint=$run/pretrain" "seed=$seed" \
        "data.manifests=[$data/$corpus/train.tsv]" "dev.manifests=[$data/$corpus/dev.tsv]" "$@"
    finished "$asr"
    speechssl transcribe "$asr" "$data/$corpus/test.tsv" --out "$asr/test.tsv"
    speechssl score "$data/$corpus/test.tsv" "$asr/test.tsv" --out "$asr/test.json"
}
for corpus in festvox-ru asterisk fillets-nl; do  # 24,000 s of audio, in batches as small as the longest utterance allows
    case $corpus in
        festvox-ru) budget="train.steps=1200 batch.seconds=20" ;;
        asterisk) budget="train.steps=750 batch.seconds=32" ;;
        fillets-nl) budget="train.steps=2000 batch.seconds=12" ;;
    esac
    recognise $corpus pretrained pretrained $budget
    # scratch: the rate at which it does best, when it leaves the blank plateau at all, and half of it; dev decides
    recognise $corpus scratch scratch $budget
    recognise $corpus scratch-slow scratch $budget optim.lr=0.001
done
speechssl report "$run"
