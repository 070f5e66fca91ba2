#!/usr/bin/env bash
# Quality per compute: every arm gets the same CPU time for pretraining on the pool of recipes/registry_pool, units
# included, and is fine-tuned alike on ten labelled minutes of festvox-ru, once with the extractor frozen
# (registry_pool/pretrained.yaml) and once with all weights trained (trained.yaml); dev says which counts.
#
#   CPU_MINUTES=40 SEED=1 ARMS="hubert transformers-small" CURVE=1 recipes/quality_per_compute/run.sh
#
# The number of updates comes from short runs at the start; UPDATES=6612 gives all arms of this call that many instead: on
# a machine that is now busy, now idle, short runs tell little, and arms whose updates cost the same are then compared
# fairly. WAYS="frozen" leaves out the other fine-tuning; WAYS="augmented" is the first with seven speeds and more updates.
# CURVE=1 fine-tunes a quarter and half of the way, too.
# FINETUNE="train.steps=..." changes the fine-tuning of all arms that this call runs. Resumable.
# Needs: a core, 4 GB of memory (transformers-*: up to 12 GB), 3 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
. recipes/which_corpus.sh
export OMP_NUM_THREADS=${THREADS:-1} MKL_NUM_THREADS=${THREADS:-1}
# glibc hands large tensors back to the system after each use: to keep them spares the peer 40 % of its time (measured)
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736
minutes=${CPU_MINUTES:-120} seed=${SEED:-0} curve=${CURVE:-0} finetune=${FINETUNE:-}
updates=${UPDATES:-} ways=${WAYS:-frozen trained}
all="transformers-small wav2vec2 hubert hubert2 hubert-logmel hubert-linear hubert2-linear transformers-small-ours"
all="$all hubert-log-mel best-rq"
arms=${ARMS:-$all transformers-base}
recipe=recipes/quality_per_compute
pool=recipes/registry_pool
data=${DATA:-runs/registry_pool/corpora}
top=${RUN:-runs/quality_per_compute}/minutes-$minutes
run=$top/seed$seed

pools=""
for corpus in festvox-ru asterisk fillets-nl fillets-cs tuxpaint; do
    [ -f "$data/$corpus/pool.tsv" ] ||
        speechssl corpus "$(which_corpus "$corpus")" --out "$data/$corpus" --splits "manifests/$corpus"
    pools="$pools${pools:+,}$data/$corpus/pool.tsv"
done
[ "${THREADS:-1}" = 1 ] || echo "run.sh: $THREADS threads, but the budget is CPU time; measured was one" >&2

cost() { python $recipe/cost.py "$@"; }

units() {  # folder, overrides: 100 and 500 clusters; their CPU time is in the folder's cost.jsonl
    local out=$1
    shift
    for clusters in 100 500; do
        [ -f "$out/units-$clusters/labels.tsv" ] || cost run "$out/cost.jsonl" units -- \
            speechssl cluster $pool/units.yaml "out=$out/units-$clusters" "clusters=$clusters" \
            "data.manifests=[$pools]" "seed=$seed" "$@"
    done
}

labels() { echo "labels=[$1/units-100/labels.tsv,$1/units-500/labels.tsv]"; }  # of the folder that units() filled

train() {  # method, out, steps, overrides
    local method=$1 out=$2 steps=$3 saves=12
    shift 3
    [ "$steps" -gt 60 ] || saves=1
    case $method in
        transformers-*) exec python $recipe/transformers_arm.py "${method#transformers-}" --out "$out" --seed "$seed" \
            --steps "$steps" --saves $saves --manifests ${pools//,/ } ;;
        *) exec speechssl pretrain "$pool/$method.yaml" "out=$out" "data.manifests=[$pools]" "seed=$seed" \
            "train.steps=$steps" "train.save_every=$((steps / saves))" train.keep=12 "$@" ;;
    esac
}

pretrain() {  # method, folder of the arm, name of the run, CPU minutes in all, files of what was spent, overrides
    local method=$1 arm=$2 name=$3 budget=$4 before=$5 short=10 long=60 steps
    shift 5
    [ "$method" = transformers-base ] && short=1 long=4
    [ "$method" = transformers-small ] && long=40
    [ -z "$updates" ] || cost updates "$arm/$name.json" --count "$updates" --minutes "$budget" --spent $before > /dev/null
    for steps in $short $long; do
        [ -f "$arm/$name.json" ] || [ -f "$arm/measure/$name-$steps.jsonl" ] || {
            rm -rf "$arm/measure/$name-$steps"
            cost run "$arm/measure/$name-$steps.jsonl" measure -- \
                $recipe/run.sh train "$method" "$arm/measure/$name-$steps" "$steps" "$@"
        }
    done
    steps=$(cost updates "$arm/$name.json" --minutes "$budget" --spent $before \
        --short $short "$arm/measure/$name-$short.jsonl" --long $long "$arm/measure/$name-$long.jsonl")
    rm -rf "$arm"/measure/"$name"-*[0-9]
    [ -f "$arm/$name/finished" ] || {
        cost run "$arm/cost.jsonl" "$name" -- $recipe/run.sh train "$method" "$arm/$name" "$steps" "$@"
        case $method in transformers-*) ;; *) finished "$arm/$name" ;; esac
        touch "$arm/$name/finished"
    }
}

fine_tune() {  # model, folder of the recogniser, recipe
    local model=$1 asr=$2 yaml=$3
    [ -f "$asr/test.json" ] && return
    cost run "$asr-cost.jsonl" finetune -- speechssl finetune "$yaml" "out=$asr" "checkpoint=$model" "seed=$seed" \
        "data.manifests=[$data/festvox-ru/train.tsv]" "dev.manifests=[$data/festvox-ru/dev.tsv]" layer_drop=0.0 $finetune
    finished "$asr"
    speechssl transcribe "$asr" "$data/festvox-ru/test.tsv" --out "$asr/test.tsv"
    speechssl score "$data/festvox-ru/test.tsv" "$asr/test.tsv" --out "$asr/test.json"
}

evaluate() {  # folder of the arm, name of its last pretraining run
    local arm=$1 name=$2 steps share part parts="full" folder model
    [ "$curve" = 1 ] && parts="full half quarter"
    steps=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))['updates'])" "$arm/$name.json")
    for part in $parts; do
        case $part in full) share=1 ;; half) share=2 ;; quarter) share=4 ;; esac
        folder=$(printf 'step_%08d' $((steps / share)))
        model=$arm/$name/$folder
        if [ -f "$model/config.json" ]; then  # a folder of transformers
            [ -d "$arm/converted/$folder" ] || speechssl convert "$model" "$arm/converted/$folder" --to speechssl
            model=$arm/converted/$folder
        fi
        case $ways in *frozen*) fine_tune "$model" "$arm/asr-$part-frozen" $pool/pretrained.yaml ;; esac
        case $ways in *augmented*) fine_tune "$model" "$arm/asr-$part-augmented" $pool/augmented.yaml ;; esac
        case $ways in *trained*) fine_tune "$model" "$arm/asr-$part-trained" $recipe/trained.yaml ;; esac
    done
}

run_arm() {
    local arm=$run/$1 mfcc=$run/units-mfcc logmel=$run/units-logmel half logits
    case $1 in
        transformers-* | wav2vec2) pretrain "$1" "$arm" pretrain "$minutes" "" ;;
        hubert | hubert-linear)
            units "$mfcc"
            set -- "$1" "$(labels "$mfcc")"
            [ "$1" = hubert-linear ] || set -- "$@" objective.logits=cosine
            shift
            pretrain hubert "$arm" pretrain "$minutes" "$mfcc/cost.jsonl" "$@" ;;
        hubert-log-mel)
            units "$mfcc"
            pretrain hubert_log_mel "$arm" pretrain "$minutes" "$mfcc/cost.jsonl" "$(labels "$mfcc")" ;;
        best-rq) pretrain best_rq "$arm" pretrain "$minutes" "" ;;
        hubert-logmel)
            units "$logmel" features=log_mel
            pretrain hubert "$arm" pretrain "$minutes" "$logmel/cost.jsonl" \
                "$(labels "$logmel")" objective.logits=cosine ;;
        hubert2 | hubert2-linear)  # half of the time for MFCC units, the rest for those of its third layer
            half=$(python -c "print($minutes / 2)")
            logits=cosine
            [ "$1" = hubert2 ] || logits=linear
            units "$mfcc"
            pretrain hubert "$arm" pretrain-1 "$half" "$mfcc/cost.jsonl" \
                "$(labels "$mfcc")" "objective.logits=$logits"
            units "$arm" features=layer layer=3 cmn=false "checkpoint=$arm/pretrain-1"
            pretrain hubert "$arm" pretrain-2 "$minutes" "$mfcc/cost.jsonl $arm/cost.jsonl" \
                "$(labels "$arm")" "objective.logits=$logits" ;;
        *) echo "run.sh: no arm $1; see ARMS in this script" >&2; exit 2 ;;
    esac
    if [ -d "$arm/pretrain-2" ]; then evaluate "$arm" pretrain-2; else evaluate "$arm" pretrain; fi
}

if [ "${1:-}" = train ]; then  # by ourselves, under cost.py
    shift
    train "$@"
    exit
fi
for name in $arms; do
    echo "== $name, $minutes CPU minutes, seed $seed =="
    run_arm "$name"
done
python $recipe/draw.py "$top" --out "$top/quality.png"
