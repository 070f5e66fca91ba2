# Read by the scripts of recipes, `. recipes/which_corpus.sh`: what `speechssl corpus` is given for a corpus by its name.
which_corpus() {  # FILE.py:NAME for one of recipes/corpora, whose file has the first word of the name; else the name
    local file=recipes/corpora/${1%%-*}.py
    if [ -f "$file" ]; then echo "$file:$1"; else echo "$1"; fi
}
