#!/usr/bin/env bash
# Heads on a frozen model (MODEL: a run or a model of any format), its random weights, MFCC and log-mel: languages,
# speakers, keywords and phones. Features are computed once for all tasks.
#
# Measured: recipes/README.md. Needs: 2 cores, 4 GB of memory, 3 GB of disk, Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/which_corpus.sh
model=${MODEL:?name a model} recipe=recipes/probe
run=${RUN:-runs/probe} data=${DATA:-runs/registry_pool/corpora}

for corpus in festvox-ru asterisk fillets-nl fillets-cs tuxpaint; do
    speechssl corpus "$(which_corpus "$corpus")" --out "$data/$corpus" --splits "manifests/$corpus"
done
mkdir -p "$run"
{
    printf 'id\tkeyword\n'
    sed -nE 's/^(..-(digits|letters)-([0-9a-z]))\t.*/\1\t\3/p' "$data/asterisk/pool.tsv"
} > "$run/keywords.tsv"
same=("checkpoint=$model" "features=$run/features" "$@")
speechssl probe $recipe/language.yaml "out=$run/language" "data.manifests=[$data/asterisk/pool.tsv]" \
    "test.manifests=[$data/tuxpaint/pool.tsv]" "${same[@]}"
speechssl probe $recipe/language_one_source.yaml "out=$run/language_one_source" \
    "data.manifests=[$data/asterisk/pool.tsv]" "${same[@]}"
speechssl probe $recipe/speaker.yaml "out=$run/speaker" \
    "data.manifests=[$data/fillets-nl/pool.tsv,$data/fillets-cs/pool.tsv]" "${same[@]}"
speechssl probe $recipe/keywords.yaml "out=$run/keywords" "data.manifests=[$data/asterisk/pool.tsv]" \
    "answers=$run/keywords.tsv" "${same[@]}"
speechssl probe $recipe/phones.yaml "out=$run/phones" "data.manifests=[$data/festvox-ru/train.tsv]" \
    "dev.manifests=[$data/festvox-ru/dev.tsv]" "test.manifests=[$data/festvox-ru/test.tsv]" \
    "phones=$data/festvox-ru/phones.tsv" "${same[@]}"
