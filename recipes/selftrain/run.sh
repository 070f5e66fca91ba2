#!/usr/bin/env bash
# The pool speaks back: after pretraining on nine hours without text, ten labelled minutes of Russian (festvox-ru) and
# Dutch (fillets-nl) train a recogniser; it transcribes the rest of its corpus, learns from that, and again, as long as
# dev gets better. Test is scored once, greedily and with an n-gram of letters. CORPORA=asterisk: the control, English
# with a pool in other languages, as only two minutes of English are not labelled.
#
#   MODEL=runs/registry_pool/best_rq-seed0/pretrain recipes/selftrain/run.sh
#   CORPORA=festvox-ru SEED=1 DECODE=letters ...    one corpus, another seed, pool and dev searched with that n-gram, too
#
# About an hour of one core for each corpus; resumable. Needs: a model of recipes/registry_pool/run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/which_corpus.sh
: "${MODEL:?folder of a pretrained model, as METHOD=best_rq recipes/registry_pool/run.sh makes it}"
seed=${SEED:-0} decode=${DECODE:-greedy}
recipe=recipes/selftrain
data=${DATA:-runs/registry_pool/corpora}
run=${RUN:-runs/selftrain/$decode-seed$seed}

for corpus in festvox-ru asterisk fillets-nl; do
    case " ${CORPORA:-festvox-ru fillets-nl} " in *" $corpus "*) ;; *) continue ;; esac
    [ -e "$data/$corpus/pool.tsv" ] || {
        speechssl corpus "$(which_corpus "$corpus")" --out "$data/$corpus" --splits "manifests/$corpus"
    }
    out=$run/$corpus
    mkdir -p "$out"
    case $corpus in  # batches as small as the longest labelled utterance at the lowest speed allows
        asterisk) set -- finetune.batch.seconds=44 finetune.train.steps=1100 student.train.steps=2000 languages=any ;;
        *) set -- ;;
    esac
    if [ "$decode" = letters ]; then
        speechssl lm build "$data/$corpus/train.tsv" --letters --order 5 --out "$out/letters.arpa"
        set -- "$@" "decode={kind: beam, lm: $out/letters.arpa}" \
            "tune={lm_weights: [0.25, 0.5, 1.0], word_scores: [0.0, 1.0], rounds: 0}"
    fi
    speechssl selftrain $recipe/selftrain.yaml "out=$out/chain" "checkpoint=$MODEL" "seed=$seed" \
        "labelled.manifests=[$data/$corpus/train.tsv]" "pool.manifests=[$data/$corpus/pool.tsv]" \
        "dev.manifests=[$data/$corpus/dev.tsv]" "test={manifests: [$data/$corpus/test.tsv]}" leaks=skip "$@"
    for model in 0-asr best; do
        speechssl transcribe "$out/chain/$model" "$data/$corpus/test.tsv" --out "$out/$model.tsv"
        speechssl score "$data/$corpus/test.tsv" "$out/$model.tsv" --out "$out/$model.json"
        MODEL=$out/chain/$model CORPUS=$data/$corpus OUT=$out/decode-$model DECODERS=letters recipes/decode/run.sh
    done
done
