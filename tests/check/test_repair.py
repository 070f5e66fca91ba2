"""Cleaned manifests: what is left out, what is corrected, and the list that says why."""

import dataclasses

import numpy as np
import pytest

from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.repair import describe_repaired, write_repaired
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import ConfigError, ManifestError


@pytest.fixture
def checked(tmp_path, make_manifest, speech):
    """Check a manifest with a clean file, one listed wrongly, a silent, a short and a clipped one."""
    waveforms = {
        "clean.wav": speech(1.0),
        "longer.wav": speech(1.0, seed=1),
        "silent.wav": np.zeros(16_000),
        "short.wav": speech(0.05, seed=2),
        "clipped.wav": np.clip(6 * speech(1.0, seed=3), -1, 1),
    }
    manifest = make_manifest(tmp_path, "m.tsv", waveforms, text={"longer": "wat is dat"})
    rows = [dataclasses.replace(r, num_samples=9) if r.id == "longer" else r for r in manifest.utterances]
    manifest = dataclasses.replace(manifest, utterances=tuple(rows))
    write_manifest(tmp_path / "m.tsv", rows)
    return check_manifests([manifest], [str(tmp_path / "m.tsv")], CheckConfig(), jobs=1)


def before_and_after(tmp_path, run):
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    result = run()
    assert {path: path.read_bytes() for path in before} == before, "something that was there has changed"
    return result


def test_rows_with_errors_are_left_out_and_a_wrong_row_is_corrected(tmp_path, checked):
    out = tmp_path / "new/fixed.tsv"
    (written,) = before_and_after(tmp_path, lambda: write_repaired(out, checked))
    kept = read_manifest(out).utterances
    assert [(row.id, row.num_samples, row.text) for row in kept] == [
        ("clean", 16_000, None),
        ("longer", 16_000, "wat is dat"),
        ("short", 800, None),
        ("clipped", 16_000, None),
    ]
    assert (tmp_path / "new/fixed.removed.tsv").read_text().splitlines() == [
        "id\tpath\tchange\tfinding\tmessage",
        "longer\taudio/longer.wav\tcorrected\theader\tthe manifest says samples 9, the file has 16000",
        "silent\taudio/silent.wav\tremoved\tsilent\tits peak is -200 dB of full scale",
    ]
    assert describe_repaired(written) == (
        f"{out}: 4 utterances kept, 1 removed, 1 corrected; why: {tmp_path / 'new/fixed.removed.tsv'}"
    )


def test_a_cleaned_manifest_is_clean(tmp_path, checked):
    (written,) = write_repaired(tmp_path / "fixed.tsv", checked, remove=["short", "clipped"])
    again = check_manifests([read_manifest(written.path)], ["fixed"], CheckConfig(), jobs=1)
    assert [row.row.id for row in again.rows] == ["clean", "longer"]
    assert again.findings == ()


def test_warnings_are_left_out_where_they_are_named(tmp_path, checked):
    write_repaired(tmp_path / "fixed.tsv", checked, remove=["short"])
    assert [row.id for row in read_manifest(tmp_path / "fixed.tsv").utterances] == ["clean", "longer", "clipped"]
    assert "short\taudio/short.wav\tremoved\tshort\tlasts 0.050 s" in (tmp_path / "fixed.removed.tsv").read_text()


def test_an_unknown_finding_is_refused(tmp_path, checked):
    with pytest.raises(ConfigError, match="no finding is called cliped; expected one of unreadable, "):
        write_repaired(tmp_path / "fixed.tsv", checked, remove=["cliped"])


def test_a_manifest_that_was_checked_is_never_overwritten(tmp_path, checked):
    with pytest.raises(ManifestError, match=r"m\.tsv: would overwrite a manifest that was checked"):
        before_and_after(tmp_path, lambda: write_repaired(tmp_path / "new/../m.tsv", checked))


def test_an_empty_manifest_is_not_written(tmp_path, make_manifest):
    manifest = make_manifest(tmp_path, "m.tsv", {"a.wav": np.zeros(16_000)})
    report = check_manifests([manifest], ["m"], CheckConfig(), jobs=1)
    with pytest.raises(ManifestError, match=r"fixed\.tsv: no row would be left"):
        before_and_after(tmp_path, lambda: write_repaired(tmp_path / "fixed.tsv", report))
    assert not (tmp_path / "fixed.tsv").exists()


def test_several_manifests_are_written_into_a_folder(tmp_path, make_manifest, speech):
    one = speech(1.0)
    train = make_manifest(tmp_path / "a", "train.tsv", {"x.wav": one, "y.wav": speech(1.0, seed=1)})
    test = make_manifest(tmp_path / "b", "test.tsv", {"z.wav": one})
    names = [str(tmp_path / "a/train.tsv"), str(tmp_path / "b/test.tsv")]
    report = check_manifests([train, test], names, CheckConfig(), jobs=1)
    written = before_and_after(tmp_path, lambda: write_repaired(tmp_path / "fixed", report))
    assert [(part.path, part.root, part.kept) for part in written] == [
        (tmp_path / "fixed/train.tsv", tmp_path / "a", 1),
        (tmp_path / "fixed/test.tsv", tmp_path / "b", 1),
    ]
    assert [row.id for row in read_manifest(tmp_path / "fixed/train.tsv").utterances] == ["y"]


def test_two_manifests_of_one_file_name_are_refused(tmp_path, make_manifest, speech):
    parts = [make_manifest(tmp_path / name, "m.tsv", {"a.wav": speech(1.0, seed=i)}) for i, name in enumerate("ab")]
    report = check_manifests(parts, ["a/m.tsv", "b/m.tsv"], CheckConfig(), jobs=1)
    with pytest.raises(ManifestError, match="or another; name another place"):
        write_repaired(tmp_path / "fixed", report)
    assert not (tmp_path / "fixed").exists()
