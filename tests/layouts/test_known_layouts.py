"""The command that lists a published layout, and the tables beside the manifest."""

import pytest

from speechssl.__main__ import main
from speechssl.corpus.layouts.known_layouts import LAYOUTS, list_layout
from speechssl.data.manifest import read_manifest, read_table
from speechssl.errors import CorpusError
from tests.layouts.trees import iemocap, voxceleb1


def test_a_folder_becomes_a_manifest_with_its_labels_beside_it(tmp_path, write_wav, capsys):
    root = iemocap(tmp_path / "iemocap", write_wav)
    out = tmp_path / "out/emotions.tsv"
    assert main(["manifest", "import", str(root), "-o", str(out), "--from", "iemocap"]) == 0
    said = capsys.readouterr()
    assert "10 without one of the four emotions: Ses01F_impro01_M005, " in said.err
    assert str(out.with_name("emotions.answers.tsv")) in said.out
    answers = read_table(out.with_name("emotions.answers.tsv"), ("id",))
    assert [*answers] == [row.id for row in read_manifest(out, root=root).utterances]
    assert answers["Ses05M_script01_1b_F004"]["emotion"] == "sad"


def test_trials_are_written_with_ids(tmp_path, write_wav):
    root = voxceleb1(tmp_path / "vox", write_wav)
    assert main(["manifest", "import", str(root), "-o", str(tmp_path / "v.tsv"), "--from", "voxceleb1"]) == 0
    assert (tmp_path / "v.veri_test2.trials").read_text() == (
        "1 id10270-1zcIwhmde0-2-00001 id10270-1zcIwhmde0-2-00002\n"
        "0 id10270-1zcIwhmde0-2-00001 id10271-1zcIwhmde0-3-00001\n"
    )
    assert (tmp_path / "v.veri_test.trials").is_file()


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_folder_is_refused_by_name(tmp_path, name):
    with pytest.raises(CorpusError, match=r"none: no such folder; name the one that holds"):
        list_layout(name, tmp_path / "none")
    with pytest.raises(CorpusError, match=str(tmp_path)):
        list_layout(name, tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_options_that_say_nothing_of_a_layout_are_refused(tmp_path, capsys, name):
    command = ["manifest", "import", str(tmp_path), "-o", str(tmp_path / "o.tsv"), "--from", name]
    assert main([*command, "--columns", "path=wav"]) == 2
    assert f"do not apply to {name}" in capsys.readouterr().err.replace("\n", " ")
