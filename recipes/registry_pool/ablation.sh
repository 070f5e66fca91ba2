#!/usr/bin/env bash
# What each fine-tuning device does to dev CER: one pretrained model, ten labelled minutes, one change at a time against
# pretrained.yaml. Test is not touched.
#
#   MODEL=runs/registry_pool/hubert-seed0/pretrain CORPUS=runs/registry_pool/corpora/festvox-ru recipes/registry_pool/ablation.sh
#   VARIANTS="base no-masks" SEED=1 ...    some of them, another seed
#
# Three to five minutes of one core each; resumable. Measured: recipes/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/finished.sh
: "${MODEL:?folder of a pretrained model}" "${CORPUS:?folder with train.tsv and dev.tsv}"
seed=${SEED:-0} out=${OUT:-runs/registry_pool/ablation}
variants=${VARIANTS:-base extractor-learns head-first no-masks half-masks layer-decay layers-frozen reset-top lora}

change() {  # name: the overrides that make it
    case $1 in
        base) ;;
        extractor-learns) echo ctc.freeze_conv=false ;;
        head-first) echo ctc.freeze_steps=300 ;;
        no-masks) echo ctc.mask.start_prob=0.0 ctc.mask.min_spans=0 ctc.channel_mask.start_prob=0.0 ;;
        half-masks) echo ctc.mask.start_prob=0.03 ;;
        layer-decay) echo optim.layer_decay=0.8 ;;
        layers-frozen) echo ctc.freeze_below=2 ;;
        reset-top) echo reset_layers=1 ;;
        lora) echo ctc.lora.rank=16 ;;
        *) echo "ablation.sh: no variant $1; see this script" >&2; exit 2 ;;
    esac
}
for name in $variants; do
    run=$out/seed$seed/$name
    changes=$(change "$name")
    # shellcheck disable=SC2086  # several overrides
    speechssl finetune recipes/registry_pool/pretrained.yaml "out=$run" "checkpoint=$MODEL" "seed=$seed" \
        "data.manifests=[$CORPUS/train.tsv]" "dev.manifests=[$CORPUS/dev.tsv]" train.keep=3 train.keep_best=3 layer_drop=0.0 \
        $changes
    finished "$run"
    for kind in best last; do
        [ -d "$run/average-$kind" ] || speechssl average "$run" --out "$run/average-$kind" "--$kind" 3
        [ -f "$run/average-$kind/dev.json" ] || {
            speechssl transcribe "$run/average-$kind" "$CORPUS/dev.tsv" --out "$run/average-$kind/dev.tsv"
            speechssl score "$CORPUS/dev.tsv" "$run/average-$kind/dev.tsv" --out "$run/average-$kind/dev.json"
        }
    done
done
python - "$out/seed$seed" $variants <<'PYTHON'
import json, sys
from pathlib import Path

print("| variant | best dev CER | mean of the best 3 | mean of the last 3 |\n|---|---|---|---|")
for name in sys.argv[2:]:
    run = Path(sys.argv[1], name)
    best = json.loads(max(run.glob("step_*[0-9]/state.json")).read_text())["best_score"]
    means = [json.loads((run / f"average-{kind}" / "dev.json").read_text())["cer"] for kind in ("best", "last")]
    print(f"| {name} | {100 * best:.1f} % | " + " | ".join(f"{100 * mean:.1f} %" for mean in means) + " |")
PYTHON
