#!/usr/bin/env bash
# huggingface_hub 1.33, offline, does not find a model that its cache holds when a full commit hash is asked for; by the
# branch's name it finds the same snapshot.
#
# One guesses: the pinned commit is the safest thing to ask for on a machine without network, as its snapshot folder
# bears that very name. But since the list of a commit's files is kept beside the snapshots, `snapshot_download` asks the
# hub for that list first where it is not there, and caches filled by earlier versions have none. A branch's name goes
# another way, that accepts a cache without a list. `local_files_only=True` finds both. Version 0.36 finds both at once.
# Clusters whose nodes have no network, with a cache filled last year and models pinned as papers ask, meet it.
#
# Seen on 2026-11-29, Linux x86-64:
#   huggingface_hub 0.36.2: main found, commit found, commit with local_files_only found
#   huggingface_hub 1.33.0: main found, commit OfflineModeIsEnabled, commit with local_files_only found
# Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'PYTHON'
import sys
from pathlib import Path

import huggingface_hub

cache, expected, commit = Path(sys.argv[1]), sys.argv[2], "a" * 40
repo = cache / "models--org--small-model"  # as the hub's documentation draws a cache: blobs, refs, snapshots
snapshot = repo / "snapshots" / commit
for made in (repo / "blobs", repo / "refs", snapshot):
    made.mkdir(parents=True)
(repo / "refs" / "main").write_text(commit)
(repo / "blobs" / "0123").write_text("{}")
(snapshot / "config.json").symlink_to("../../blobs/0123")


def look(**asked):
    try:
        found = huggingface_hub.snapshot_download("org/small-model", cache_dir=cache, **asked)
        return "found" if Path(found, "config.json").read_text() == "{}" else "found something else"
    except Exception as error:
        return type(error).__name__


seen = [look(revision="main"), look(revision=commit), look(revision=commit, local_files_only=True)]
version = huggingface_hub.__version__
print(f"huggingface_hub {version}: main {seen[0]}, commit {seen[1]}, commit with local_files_only {seen[2]}")
sys.exit(seen != ["found", expected, "found"])
PYTHON
holds=0
for case in "huggingface_hub==0.36.2:found" "huggingface_hub==1.33.0:OfflineModeIsEnabled"; do
    version=${case%%:*}
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip --quiet --disable-pip-version-check install "$version"
    HF_HUB_OFFLINE=1 "$folder/$version/bin/python" "$folder/look.py" "$folder/cache-$version" "${case#*:}" || holds=1
done
exit "$holds"
