#!/usr/bin/env bash
# transformers 5 forgets the word delimiter of a CTC tokenizer: saved with word_delimiter_token="_", it is loaded with "|".
#
# One guesses: what save_pretrained wrote, from_pretrained reads, the more so as tokenizer_config.json holds the setting.
# But version 5 takes every setting that ends in "_token" for a special token and does not hand it to the constructor, so
# that the default "|" comes back, also where the setting is given to from_pretrained. All words are written as one, with
# "_" between, and nothing is said. The constructor itself, called by hand, obeys; so does version 4.
#
# Seen on 2026-11-29, Linux x86-64:
#   transformers 4.57.6: made 'a b', loaded 'a b', with the setting 'a b'
#   transformers 5.17.0: made 'a b', loaded 'a_b', with the setting 'a_b' (5.24.0 too)
# Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers
from transformers import Wav2Vec2CTCTokenizer

folder, expected = Path(sys.argv[1]), sys.argv[2]
(folder / "vocab.json").write_text(json.dumps({"[PAD]": 0, "[UNK]": 1, "_": 2, "a": 3, "b": 4}))
specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": None, "eos_token": None}
made = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), word_delimiter_token="_", **specials)
made.save_pretrained(folder / "saved")
saved = json.loads((folder / "saved" / "tokenizer_config.json").read_text())["word_delimiter_token"]
loaded = Wav2Vec2CTCTokenizer.from_pretrained(folder / "saved")
told = Wav2Vec2CTCTokenizer.from_pretrained(folder / "saved", word_delimiter_token="_")
texts = [tokenizer.batch_decode([[3, 2, 4]])[0] for tokenizer in (made, loaded, told)]
print(f"transformers {transformers.__version__}: made {texts[0]!r}, loaded {texts[1]!r}, with the setting {texts[2]!r}")
sys.exit(not (saved == "_" and texts == ["a b", expected, expected]))
PYTHON
holds=0
for case in "4.57.6:a b" "5.17.0:a_b"; do
    version=${case%%:*}
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip --quiet --disable-pip-version-check install "transformers==$version" numpy==2.4.6
    mkdir "$folder/made-$version"
    "$folder/$version/bin/python" "$folder/look.py" "$folder/made-$version" "${case#*:}" 2> /dev/null || holds=1
done
exit "$holds"
