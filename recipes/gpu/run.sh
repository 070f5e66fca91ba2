#!/usr/bin/env bash
# What only a GPU can show, in nine minutes: is it right, and how fast. One JSON file and one table, OUT/gpu.json and
# OUT/table.md. Without a GPU everything runs small on the CPU: a rehearsal, whose figures mean nothing.
#
#   recipes/gpu/run.sh              with the wheels of recipes/gpu/wheels, if fetch_wheels.sh left some there
#
# Each part has its own process and its own time: one that fails, hangs or is cut short leaves the rows that it had.
#
#   OUT       folder to write (runs/gpu)
#   DEVICE    cuda or cpu (cuda where there is one)
#   SECONDS_IN_ALL   after which no part goes on (540)
#   PARTS     which, in order (agreement clustering stepping recognising tracing)
#   README    set it to write the table into recipes/gpu/README.md as well
#   PYTHON    interpreter (python3)
set -uo pipefail
SECONDS=0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
out=${OUT:-runs/gpu}
parts=${PARTS:-agreement clustering stepping recognising tracing}
in_all=${SECONDS_IN_ALL:-540}
site=""

fail() { echo "gpu: $*" >&2; exit 1; }

if compgen -G "$here/wheels/*.whl" >/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --target "$site" "$here"/wheels/*.whl ||
        echo "gpu: the wheels of $here/wheels do not install here (see above); going on without them" >&2
fi
[ ! -d "$root/speechssl" ] || site=$root${site:+:$site}  # a checkout is run as it is; without sources, what is installed
export PYTHONPATH=$here:$root/recipes/benchmarks${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8} PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
"$python" -c 'import speechssl, soundfile, pydantic, safetensors' ||
    fail "something is not installed: install speechssl, or carry wheels (fetch_wheels.sh) and run this again"
device=${DEVICE:-$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
mkdir -p "$out/parts"
rm -f "$out"/parts/*.json "$out/log.txt"
echo "gpu: on $device, at most $in_all s, into $out" | tee "$out/log.txt"

# seconds of each part; what one leaves over, the next ones have
share() { case $1 in agreement) echo 115 ;; clustering) echo 105 ;; stepping) echo 180 ;; recognising) echo 75 ;; *) echo 35 ;; esac; }
"$python" "$here/report.py" "$out" --about --device "$device" || fail "the device cannot be described"
lent=$SECONDS

for part in $parts; do
    left=$((in_all - 20 - SECONDS))  # the report wants some
    ((left > 5)) || { echo "gpu: no time left for $part" | tee -a "$out/log.txt"; continue; }
    lent=$((lent + $(share "$part")))
    given=$((lent - SECONDS < left ? lent - SECONDS : left))
    ((given > 5)) || given=5
    begun=$SECONDS
    # what is begun in the last fifth of the time would hardly be done
    timeout --kill-after=5 "$given" "$python" "$here/$part.py" --out "$out/parts/$part.json" --device "$device" \
        --seconds "$((given * 8 / 10))" >>"$out/log.txt" 2>&1
    status=$?
    case $status in
        0) said="done" ;;
        124 | 137) said="cut short" ;;
        *) said="failed ($status), see $out/log.txt" ;;
    esac
    echo "gpu: $part $said after $((SECONDS - begun)) s" | tee -a "$out/log.txt"
    ((status == 0)) || failed="${failed:-} $part"
done
"$python" "$here/report.py" "$out" --device "$device" ${README:+--readme} || fail "the report failed"
rm -r "$out/parts" "$out/about.json"
[ -z "${failed:-}" ] || fail "not done:$failed"
