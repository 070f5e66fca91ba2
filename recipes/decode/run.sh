#!/usr/bin/env bash
# One fine-tuned model, one corpus: greedy, beam, lexicon with an n-gram of words, n-gram of letters, each scored against
# greedy. Language models are built from TEXTS alone and weighted on dev; test is decoded once with each decoder.
#
#   MODEL=runs/mine/asr CORPUS=runs/data/festvox-ru OUT=runs/decode/festvox-ru recipes/decode/run.sh
#   TEXTS=other.txt NAME=other DECODERS="words letters" ... recipes/decode/run.sh    with other texts, beside the first
#
# Minutes of one core for ten minutes of test. Needs the extra `decode`. Measured: recipes/README.md.
set -euo pipefail
: "${MODEL:?folder of a fine-tuning run}" "${CORPUS:?folder with train.tsv, dev.tsv and test.tsv}" "${OUT:?folder}"
texts=${TEXTS:-$CORPUS/train.tsv} name=${NAME:-train} decoders=${DECODERS:-greedy beam words letters}
beam=${BEAM:-50}
lm=$OUT/$name
mkdir -p "$lm"

decode() {  # table to write, what transcribe needs for it
    local table=$1
    shift
    [ -e "$table" ] || speechssl transcribe "$MODEL" "$CORPUS/test.tsv" --out "$table" "$@"
}
tune() {  # folder, what tune needs
    local folder=$1
    shift
    [ -e "$folder/tune.json" ] || speechssl lm tune "$MODEL" "$CORPUS/dev.tsv" --out "$folder" --beam "$beam" --rounds 0 "$@"
    decode "$folder.tsv" --tuned "$folder"
}
for decoder in $decoders; do
    case $decoder in
        greedy) decode "$OUT/greedy.tsv" ;;
        beam) decode "$OUT/beam.tsv" --beam "$beam" ;;
        words)
            speechssl lm build "$texts" --model "$MODEL" --order 3 --out "$lm/words.arpa"
            speechssl lm lexicon "$texts" --model "$MODEL" --out "$lm/lexicon.tsv"
            speechssl lm perplexity "$lm/words.arpa" "$CORPUS/test.tsv"  # says how many words of the test are unknown
            tune "$lm/words" --lm "$lm/words.arpa" --lexicon "$lm/lexicon.tsv" --flashlight
            ;;
        letters)
            speechssl lm build "$texts" --model "$MODEL" --order 5 --letters --out "$lm/letters.arpa"
            tune "$lm/letters" --lm "$lm/letters.arpa" --metric cer --lm-weights "0.25 0.5 1 1.5 2" --word-scores "0 2"
            ;;
    esac
done
for table in "$OUT/beam.tsv" "$lm/words.tsv" "$lm/letters.tsv"; do
    [ ! -e "$table" ] || speechssl score "$CORPUS/test.tsv" "$OUT/greedy.tsv" "$table" --out "${table%.tsv}-against-greedy.json"
    [ ! -e "$table" ] || speechssl score "$CORPUS/test.tsv" "$table" --out "${table%.tsv}.json"
done
