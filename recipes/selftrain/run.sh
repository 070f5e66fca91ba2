#!/usr/bin/env bash
# The pool speaks back: after pretraining, ten labelled minutes of Russian (festvox-ru) or Dutch (fillets-nl) train a
# recogniser; it transcribes the rest of its corpus, learns from that, and again, as long as dev gets better. Test is
# scored once, greedily and with n-grams of letters. CORPORA=asterisk: the control, English with a pool in other languages,
# as only two minutes of English are neither labelled nor held out.
#
#   MODEL=runs/demo/festvox-ru-hubert-seed0/pretrain CORPORA=festvox-ru recipes/selftrain/run.sh
#   MODEL=... CORPORA="fillets-nl asterisk" ...     a model of recipes/registry_pool/run.sh
#   MODEL=... DECODE=train SEED=1 ...               pool and dev searched with letters of the labelled texts; or pool: of
#                                                   the texts of the whole pool, which a user may have without its audio
#
# Half an hour of one core for each corpus; resumable. Measured: recipes/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/which_corpus.sh
: "${MODEL:?folder of a pretrained model, as recipes/demo/run.sh or recipes/registry_pool/run.sh makes it}"
seed=${SEED:-0} decode=${DECODE:-train}
recipe=recipes/selftrain
data=${DATA:-runs/selftrain/corpora}
run=${RUN:-runs/selftrain/$decode-seed$seed}

for corpus in festvox-ru asterisk fillets-nl; do
    case " ${CORPORA:-festvox-ru} " in *" $corpus "*) ;; *) continue ;; esac
    [ -e "$data/$corpus/pool.tsv" ] ||
        speechssl corpus "$(which_corpus "$corpus")" --out "$data/$corpus" --splits "manifests/$corpus"
    out=$run/$corpus
    mkdir -p "$out"
    set --
    case $corpus in
        asterisk)  # batches as small as the longest labelled utterance at the lowest speed allows
            set -- finetune.batch.seconds=44 finetune.train.steps=1100 languages=any ;;
        fillets-nl)  # at twice the rate the student stays on the blank plateau
            set -- finetune.dropout=0.1 finetune.ctc.mask.start_prob=0.065 finetune.train.steps=1400 \
                student.train.steps=1800 student.optim.lr=0.001 "keep.share=[0.6]" ;;
    esac
    if [ "$decode" != greedy ]; then
        speechssl lm build "$data/$corpus/$decode.tsv" --letters --order 5 --out "$out/letters.arpa"
        set -- "$@" "decode={kind: beam, lm: $out/letters.arpa, search: {beam: 30, tokens: 12}}" \
            "tune={lm_weights: [0.5, 1.0, 1.5, 2.0], word_scores: [0.0, 2.0], rounds: 0}"
    fi
    speechssl selftrain $recipe/selftrain.yaml "out=$out/chain" "checkpoint=$MODEL" "seed=$seed" \
        "labelled.manifests=[$data/$corpus/train.tsv]" "pool.manifests=[$data/$corpus/pool.tsv]" \
        "dev.manifests=[$data/$corpus/dev.tsv]" "test={manifests: [$data/$corpus/test.tsv]}" leaks=skip "$@"
    for model in 0-asr best; do
        speechssl transcribe "$out/chain/$model" "$data/$corpus/test.tsv" --out "$out/$model.tsv"
        speechssl score "$data/$corpus/test.tsv" "$out/$model.tsv" --out "$out/$model.json"
        for texts in train pool; do
            MODEL=$out/chain/$model CORPUS=$data/$corpus OUT=$out/decode-$model DECODERS="greedy letters" \
                TEXTS=$data/$corpus/$texts.tsv NAME=$texts recipes/decode/run.sh
        done
    done
done
