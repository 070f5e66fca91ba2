# Read by the scripts of recipes, `. recipes/finished.sh`: what a signal stops is not gone on with.
trap 'exit 130' INT TERM
finished() {  # a stage that a signal stopped has saved and ends well, but the next has nothing to begin with
    grep -qs '"is_finished": true' "$1"/step_*/state.json || { echo "$1: stopped; the same command goes on" >&2; exit 0; }
}
