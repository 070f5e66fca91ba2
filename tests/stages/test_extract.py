"""Stage extract: features of layers to files, in every format, and back to k-means."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.config import to_dict
from speechssl.data.labels import read_labels
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, LabelError
from speechssl.features.feature_folder import FORMATS, FeatureFolder
from speechssl.hub.saved import SavedModel
from speechssl.parallel import Ranks
from speechssl.stages import extract as stage
from speechssl.stages.cluster import cluster
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import ExtractConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.stored import stored_features
from speechssl.units.mfcc import mfcc
from tests.model.precisions import skip_without

PACKAGES = {"hdf5": "h5py", "parquet": "pyarrow"}
NAMES = [*FORMATS]


@pytest.fixture(params=NAMES)
def form(request: pytest.FixtureRequest) -> str:
    """Name a format whose package is installed."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return request.param


@pytest.fixture
def make(corpus: Path, pretrained: Path) -> Callable[..., ExtractFeaturesConfig]:
    """Give a function that configures the extraction of both layers of a tiny model, two or three utterances a part."""

    def configure(out: Path, **changes: object) -> ExtractFeaturesConfig:
        config = ExtractFeaturesConfig(
            out=out, data=DataConfig(manifests=(corpus,)), model=str(pretrained), layers="all", part_s=1.5
        )
        return dataclasses.replace(config, **changes)

    return configure


def by_hand(corpus: Path, pretrained: Path) -> dict[str, list[np.ndarray]]:
    """Compute all layers of every utterance, alone, with nothing of the stage."""
    encoder, manifest = SavedModel.read(pretrained).encoder(), read_manifest(corpus)
    found = {}
    for row in manifest.utterances:
        waveform = read_audio(manifest.audio_path(row), AudioConfig())
        with torch.no_grad():
            layers = encoder(waveform[None], torch.tensor([len(waveform)]), num_layers=2).layers
        found[row.id] = [layer[0].numpy() for layer in layers]
    return found


def silence(path: Path) -> None:
    """Make a file of 16-bit wav silent, which only who decodes it can tell."""
    whole = path.read_bytes()
    path.write_bytes(whole[:44] + bytes(len(whole) - 44))


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file that is not about the process."""
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", "config.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.fixture
def odd(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    """Give the manifest of utterances whose ids are no names of files."""
    manifest = make_corpus(tmp_path / "odd", [8000, 9000, 8000, 9000, 8000, 8500])
    ids = ["a/b c", "..", "__metadata__", "ж" * 100, "a/../b", "100%"]
    rows = read_manifest(manifest).utterances
    write_manifest(manifest, [dataclasses.replace(row, id=key) for row, key in zip(rows, ids, strict=True)])
    return manifest


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_read_is_what_the_model_gives(make, form, corpus, pretrained, tmp_path, dtype):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", format=form, dtype=dtype)))
    expected = by_hand(corpus, pretrained)
    for layer in (1, 2):
        found = dict(folder.read(layer=layer))
        assert [*found] == [*expected]
        for key, array in found.items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, expected[key][layer - 1].astype(dtype), strict=True)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out/parts").exists()


def test_utterances_are_read_in_any_order(make, form, corpus, pretrained, tmp_path):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", format=form)))
    wanted = ["u0005", "u0000", "u0007", "u0005"]
    expected = by_hand(corpus, pretrained)
    found = list(folder.read(wanted, layer=2))
    assert [key for key, _ in found] == wanted
    assert all(np.array_equal(array, expected[key][1]) for key, array in found)


def test_ids_that_are_no_names_come_back(form, odd, tmp_path):
    config = ExtractFeaturesConfig(
        out=tmp_path / "out", data=DataConfig(manifests=(odd,)), model="mfcc", format=form, part_s=1.0
    )
    found = dict(FeatureFolder(extract_features(config)).read())
    manifest = read_manifest(odd)
    assert [*found] == [row.id for row in manifest.utterances]
    for row in manifest.utterances:
        assert np.array_equal(found[row.id], mfcc(read_audio(manifest.audio_path(row), AudioConfig())).numpy())
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"odd", "out"}


def test_numpy_reads_npy(make, corpus, pretrained, tmp_path):
    out = extract_features(make(tmp_path / "out", layers=(2,)))
    assert np.array_equal(np.load(out / "layer_2/u0003.npy"), by_hand(corpus, pretrained)["u0003"][1])


def test_safetensors_reads_its_shards(make, corpus, pretrained, tmp_path):
    from safetensors.numpy import load_file

    out = extract_features(make(tmp_path / "out", format="safetensors"))
    expected = by_hand(corpus, pretrained)
    found = {}
    for path in (out / "layer_1").glob("*.safetensors"):
        found |= load_file(path)
    assert {*found} == {*expected}
    assert all(np.array_equal(found[key], expected[key][0]) for key in expected)


def test_h5py_reads_one_file_that_can_move_with_its_parts(make, corpus, pretrained, tmp_path):
    h5py = pytest.importorskip("h5py")
    extract_features(make(tmp_path / "out", format="hdf5")).rename(tmp_path / "moved")
    expected = by_hand(corpus, pretrained)
    with h5py.File(tmp_path / "moved/layer_2.h5", "r") as file:
        assert {*file} == {*expected}
        assert all(np.array_equal(file[key][()], expected[key][1]) for key in expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_zarr_reads_the_folder_as_a_store(make, corpus, pretrained, tmp_path, dtype):
    zarr = pytest.importorskip("zarr")
    store = zarr.open_group(extract_features(make(tmp_path / "out", format="zarr", dtype=dtype)), mode="r")
    expected = by_hand(corpus, pretrained)
    assert {*store["layer_1"]} == {*expected}
    assert all(np.array_equal(store[f"layer_1/{key}"][:], expected[key][0].astype(dtype)) for key in expected)


def test_zarr_walks_to_ids_that_are_no_names(odd, tmp_path):
    zarr = pytest.importorskip("zarr")
    data = DataConfig(manifests=(odd,))
    out = extract_features(ExtractFeaturesConfig(out=tmp_path / "out", data=data, model="mfcc", format="zarr"))
    store, folder = zarr.open_group(out, mode="r"), FeatureFolder(out)
    for key, array in folder.read():
        assert np.array_equal(store["mfcc"][folder.entries[key].place][:], array)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_datasets_loads_parquet(make, corpus, pretrained, tmp_path, dtype):
    datasets = pytest.importorskip("datasets")
    out = extract_features(make(tmp_path / "out", format="parquet", dtype=dtype))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(out / "data/*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("numpy")
    expected = by_hand(corpus, pretrained)
    assert list(loaded["id"]) == [*expected]
    for row in loaded:
        assert np.array_equal(row["layer_2"], expected[row["id"]][1].astype(dtype))
    assert loaded.features["layer_2"].feature.feature.dtype == dtype  # of the file: its numpy format gives float32


def test_lhotse_reads_its_manifest_and_finds_it_consistent(make, corpus, pretrained, tmp_path):
    lhotse = pytest.importorskip("lhotse")
    from speechssl.corpus.formats.lhotse_cuts import write_lhotse

    out = extract_features(make(tmp_path / "out", format="lhotse"))
    features = lhotse.FeatureSet.from_file(out / "layer_2.features.jsonl.gz")
    lhotse.validate(features, read_data=True)
    expected = by_hand(corpus, pretrained)
    found = {each.recording_id: each.load() for each in features}
    assert {*found} == {*expected}
    assert all(np.array_equal(found[key], expected[key][1]) for key in expected)
    write_lhotse(tmp_path / "lhotse", read_manifest(corpus))
    recordings = lhotse.RecordingSet.from_file(tmp_path / "lhotse/recordings.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(recordings=recordings, features=features)
    assert {cut.recording_id: cut.load_features().shape for cut in cuts} == {
        key: layers[1].shape for key, layers in expected.items()
    }


def test_the_description_says_where_features_come_from(make, corpus, pretrained, tmp_path):
    out = extract_features(make(tmp_path / "out"))
    told = json.loads((out / "features.json").read_text())
    assert told["model"] == "run/step_00000003"
    assert told["fingerprint"] == SavedModel.read(pretrained).fingerprint()
    assert [(each["name"], each["layer"], each["dim"]) for each in told["streams"]] == [
        ("layer_1", 1, 32),
        ("layer_2", 2, 32),
    ]
    assert (told["hop"], told["window"], told["utterances"], told["left_out"]) == (320, 325, 8, {})
    assert told["rows"] == told["frames"] == sum(len(layers[0]) for layers in by_hand(corpus, pretrained).values())
    assert {*told["versions"]} == {"python", "torch", "speechssl"}
    assert told["manifest"]["utterances"] == 8
    entry = FeatureFolder(out).entries["u0002"]
    assert (entry.samples, entry.first_sample, entry.file) == (10_000, 0, "u0002.npy")


def test_a_part_of_a_file_says_where_it_begins(make, corpus, tmp_path):
    rows = read_manifest(corpus).utterances
    part = dataclasses.replace(rows[7], id="part", start=4000, num_samples=8000, file_samples=15_000)
    path = corpus.parent / "part.tsv"
    write_manifest(path, [part])
    out = extract_features(make(tmp_path / "out", data=DataConfig(manifests=(path,)), model="mfcc", layers=()))
    entry = FeatureFolder(out).entries["part"]
    assert (entry.first_sample, entry.samples, entry.frames) == (4000, 8000, 48)


def test_without_a_name_it_is_the_last_layer(make, tmp_path):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", layers=())))
    assert [stream.name for stream in folder.description.streams] == ["layer_2"]


@pytest.mark.parametrize(("weights", "factors"), [((), (0.5, 0.5)), ((2.0, -1.0), (2.0, -1.0))])
def test_weighted_layers_are_summed(make, corpus, pretrained, tmp_path, weights, factors):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", layers="weighted", weights=weights)))
    assert [stream.name for stream in folder.description.streams] == ["weighted"]
    for key, array in folder.read():
        first, second = by_hand(corpus, pretrained)[key]
        np.testing.assert_allclose(array, factors[0] * first + factors[1] * second, rtol=1e-5, atol=1e-6)


def test_weights_are_one_for_each_layer(make, tmp_path):
    with pytest.raises(LabelError, match="has layers 1 to 2, 3 weights were given; give one for each layer"):
        extract_features(make(tmp_path / "out", layers="weighted", weights=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("layers", [(3,), (0, 3), (-1,)])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(make, tmp_path, layers):
    with pytest.raises(LabelError, match=r"run/step_00000003 has layers 0 to 2, .*\[-?\d\]"):
        extract_features(make(tmp_path / "out", layers=layers))


def test_the_mean_over_time_is_one_row(make, form, corpus, pretrained, tmp_path):
    if form == "lhotse":
        with pytest.raises(ConfigError, match="Lhotse stores frames at a constant rate"):
            make(tmp_path / "out", format=form, pool="mean")
        return
    folder = FeatureFolder(extract_features(make(tmp_path / "out", format=form, pool="mean")))
    for key, array in folder.read(layer=1):
        expected = by_hand(corpus, pretrained)[key][0].astype(np.float64).mean(0, keepdims=True)
        np.testing.assert_allclose(array, expected, rtol=1e-6)
        assert folder.entries[key].frames == len(by_hand(corpus, pretrained)[key][0])


def test_segments_are_runs_of_equal_units(make, cluster_config, corpus, pretrained, tmp_path):
    labels = cluster(cluster_config(tmp_path / "units", features="layer", checkpoint=pretrained, layer=2, clusters=3))
    folder = FeatureFolder(extract_features(make(tmp_path / "out", pool="segments", segments=labels, layers=(1,))))
    units, expected = read_labels(labels).units, by_hand(corpus, pretrained)
    for key, array in folder.read():
        segments = folder.entries[key].segments
        assert np.repeat(*np.array(segments).T).tolist() == units[key].tolist()
        assert all(before[0] != after[0] for before, after in itertools.pairwise(segments))
        begin = 0
        for (_, count), row in zip(segments, array, strict=True):
            np.testing.assert_allclose(row, expected[key][0][begin : begin + count].mean(0), rtol=2e-5, atol=1e-6)
            begin += count


def test_segments_of_faster_units_are_rounded_to_frames(make, units, tmp_path):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", pool="segments", segments=units, layers=(1,))))
    assert all(sum(count for _, count in entry.segments) == entry.frames for entry in folder.entries.values())


def test_labels_of_other_audio_are_refused(make, units, tmp_path, make_corpus):
    other = DataConfig(manifests=(make_corpus(tmp_path / "other", [9000, 9000]),))
    with pytest.raises(LabelError, match="the labels belong to other audio"):
        extract_features(make(tmp_path / "out", pool="segments", segments=units, data=other))


def test_what_float16_cannot_hold_is_named(make, tmp_path, monkeypatch):
    def large(*arguments: object, **options: object) -> stage.FeatureSource:
        source = front_end(*arguments, **options)
        return dataclasses.replace(
            source, compute=lambda waveforms: ((i, [f[0] * 1e4]) for i, f in source.compute(waveforms))
        )

    front_end = stage.front_end
    monkeypatch.setattr(stage, "front_end", large)
    config = make(tmp_path / "out", model="mfcc", layers=(), dtype="float16")
    with pytest.raises(
        LabelError, match=r"u0000, mfcc: a feature is as large as \d.*, float16 holds 65504; write float32"
    ):
        extract_features(config)
    assert not (tmp_path / "out/features.json").exists()
    extract_features(dataclasses.replace(config, out=tmp_path / "other", dtype="float32"))


def test_features_that_are_not_finite_are_named(make, tmp_path, monkeypatch):
    def broken(*arguments: object, **options: object) -> stage.FeatureSource:
        source = front_end(*arguments, **options)
        return dataclasses.replace(
            source, compute=lambda waveforms: ((i, [f[0] / 0.0]) for i, f in source.compute(waveforms))
        )

    front_end = stage.front_end
    monkeypatch.setattr(stage, "front_end", broken)
    with pytest.raises(LabelError, match="u0000, mfcc: features hold NaN or infinite"):
        extract_features(make(tmp_path / "out", model="mfcc", layers=()))


def test_features_and_units_of_a_model_with_log_mel_input_are_those_it_gives(
    make, cluster_config, corpus, pretrained_on_log_mel, tmp_path
):
    folder = extract_features(make(tmp_path / "out", model=str(pretrained_on_log_mel)))
    expected = by_hand(corpus, pretrained_on_log_mel)
    for key, array in FeatureFolder(folder).read(layer=2):
        np.testing.assert_allclose(array, expected[key][1], rtol=1e-4, atol=1e-5)
    of_model = cluster_config(
        tmp_path / "layer", features="layer", checkpoint=pretrained_on_log_mel, layer=2, clusters=4
    )
    stored = cluster_config(tmp_path / "stored", features=folder, layer=2, clusters=4)
    assert cluster(of_model).read_bytes() == cluster(stored).read_bytes()


def test_long_audio_goes_through_in_windows(make, corpus, pretrained, tmp_path):
    windows = ExtractConfig(window_s=0.4, overlap_s=0.1)
    folder = FeatureFolder(extract_features(make(tmp_path / "out", layers=(2,), extract=windows)))
    for key, array in folder.read():
        assert array.shape == by_hand(corpus, pretrained)[key][1].shape


def test_bad_audio_stops_or_is_left_out_with_its_reason(make, form, tmp_path, make_corpus, capfd):
    manifest = make_corpus(tmp_path / "spoilt", [8000, 9000, 10_000, 300])
    silence(manifest.parent / "u0001.wav")
    data = DataConfig(manifests=(manifest,))
    with pytest.raises(AudioError, match=r"u0001\.wav: silent|shorter than the 325 samples"):
        extract_features(make(tmp_path / "stopped", format=form, data=data))
    skips = dataclasses.replace(data, bad_audio="skip")
    folder = FeatureFolder(extract_features(make(tmp_path / "out", format=form, data=skips)))
    assert [key for key, _ in folder.read(layer=1)] == ["u0000", "u0002"]
    assert "u0001.wav: silent" in folder.description.left_out["u0001"]
    assert "300 samples" in folder.description.left_out["u0003"]
    assert "left out, bad audio: 2 utterances: u0001, u0003" in capfd.readouterr().err
    with pytest.raises(LabelError, match=r"holds no features of u0001: it was left out \(.*silent"):
        list(folder.read(["u0001"], layer=1))


def test_a_folder_that_was_interrupted_ends_with_the_same_bits(make, form, tmp_path, monkeypatch):
    whole = extract_features(make(tmp_path / "whole", format=form))
    seen: list[str] = []
    pieces_of = stage.pieces_of

    def until_the_fourth(*arguments: object, **options: object):
        for piece in pieces_of(*arguments, **options):
            seen.append(piece.row.id)
            if len(seen) == 4:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(stage, "pieces_of", until_the_fourth)
    config = make(tmp_path / "out", format=form)
    with pytest.raises(KeyboardInterrupt):
        extract_features(config)
    with pytest.raises(LabelError, match=r"not a folder of features, as it holds no features.json"):
        FeatureFolder(tmp_path / "out").description  # noqa: B018 - is asked for
    extract_features(config)
    assert seen[:6] == ["u0000", "u0001", "u0002", "u0003", *seen[4:6]]
    assert seen[4] != "u0000", "a finished part was done again"
    assert contents(tmp_path / "out").keys() == contents(whole).keys()
    found, expected = (contents(path) for path in (tmp_path / "out", whole))
    different = {name for name in found if found[name] != expected[name]}
    assert different <= {"layer_1.features.jsonl.gz", "layer_2.features.jsonl.gz"}, "whole paths alone may differ"


WORKER = """
import sys, time
from pathlib import Path
import torch
from speechssl.config import load
from speechssl.stages import extract as stage
from tests.model.precisions import skip_without

torch.set_num_threads(1)
pieces_of = stage.pieces_of
def slowly(*arguments, **options):
    for piece in pieces_of(*arguments, **options):
        time.sleep(float(sys.argv[2]))
        yield piece
stage.pieces_of = slowly
stage.extract_features(load(Path(sys.argv[1]), stage.ExtractFeaturesConfig))
"""


@pytest.mark.parametrize("form", ["npy", "hdf5", "zarr"], indirect=True)
def test_a_killed_process_goes_on(make, form, tmp_path):
    whole = extract_features(make(tmp_path / "whole", format=form, part_s=0.6))
    config = make(tmp_path / "out", format=form, part_s=0.6)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path / "config.yaml")]
    process = subprocess.Popen([*command, "0.05"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    parts = tmp_path / "out/parts"
    while process.poll() is None and len(list(parts.glob("[0-9]*.json"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/features.json").exists(), "it was killed too late"
    extract_features(config)
    found, expected = contents(tmp_path / "out"), contents(whole)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {f"layer_{i}.features.jsonl.gz" for i in (1, 2)}


@pytest.mark.parametrize("form", ["zarr"], indirect=True)  # whose processes write into the same folders
def test_several_processes_write_what_one_writes(make, form, tmp_path):
    batches = ExtractConfig(batch_s=2.0)
    one = contents(extract_features(make(tmp_path / "one", format=form, extract=batches, part_s=3.0)))
    two = contents(extract_features(make(tmp_path / "two", format=form, extract=batches, part_s=3.0, processes=2)))
    assert one == two


def test_an_error_of_a_process_is_that_of_the_command(make, tmp_path, make_corpus):
    manifest = make_corpus(tmp_path / "spoilt", [8000, 9000, 10_000])
    silence(manifest.parent / "u0002.wav")
    config = make(tmp_path / "out", data=DataConfig(manifests=(manifest,)), processes=2, part_s=0.5)
    with pytest.raises(AudioError, match=r"u0002\.wav: silent"):
        extract_features(config)


def test_a_finished_folder_is_not_done_again(make, tmp_path, monkeypatch):
    out = extract_features(make(tmp_path / "out"))
    monkeypatch.setattr(stage, "read_data", lambda _: pytest.fail("read the corpus again"))
    assert extract_features(make(tmp_path / "out")) == out


def test_other_features_do_not_go_into_the_same_folder(make, tmp_path):
    extract_features(make(tmp_path / "out"))
    with pytest.raises(CheckpointError, match="another configuration"):
        extract_features(make(tmp_path / "out", layers=(1,)))


def test_a_manifest_that_changed_under_an_interrupted_run_is_refused(make, tmp_path, make_corpus, monkeypatch):
    manifest = make_corpus(tmp_path / "corpus", [8000, 9000])
    config = make(tmp_path / "out", data=DataConfig(manifests=(manifest,)))
    with monkeypatch.context() as patched:
        patched.setattr(stage, "pieces_of", lambda *_: pytest.fail("stopped here"))
        with pytest.raises(pytest.fail.Exception):
            extract_features(config)
    write_manifest(manifest, read_manifest(manifest).utterances[:1])
    with pytest.raises(
        CheckpointError, match=r"was begun with other features \(manifest.hash was '.*', is '.*'\); name"
    ):
        extract_features(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mfcc", "layers": (6,)}, "mfcc has no layers"),
        ({"cmn": True}, "cmn is for mfcc and log_mel"),
        ({"weights": (1.0,)}, "weights are for layers=weighted"),
        ({"pool": "segments"}, "need pool=segments and a label file"),
        ({"segments": Path("labels.tsv")}, "need pool=segments and a label file"),
        ({"processes": 0}, "processes must be more than 0"),
    ],
)
def test_what_does_not_go_together_is_refused(make, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "out", **changes)


def test_nothing_but_bad_audio_is_an_error(make, tmp_path, make_corpus):
    manifest = make_corpus(tmp_path / "spoilt", [300, 200])
    data = DataConfig(manifests=(manifest,), bad_audio="skip")
    with pytest.raises(LabelError, match=r"no utterance could be used; the first, u0000: .*300 samples"):
        extract_features(make(tmp_path / "out", data=data))


# --- k-means of such folders -------------------------------------------------------------------------------------


@pytest.fixture
def layer_units(cluster_config, pretrained, tmp_path) -> Path:
    """Give the label file of four units of the second layer."""
    config = cluster_config(tmp_path / "layer", features="layer", checkpoint=pretrained, layer=2, clusters=4)
    return cluster(config)


def test_units_of_a_folder_are_those_of_the_model(make, form, cluster_config, layer_units, tmp_path):
    folder = extract_features(make(tmp_path / "features", format=form))
    path = cluster(cluster_config(tmp_path / "stored", features=folder, layer=2, clusters=4))
    assert path.read_bytes() == layer_units.read_bytes()
    for name in ("kmeans.safetensors",):
        assert (path.parent / name).read_bytes() == (layer_units.parent / name).read_bytes()


@pytest.mark.parametrize("kind", ["mfcc", "log_mel"])
def test_units_of_a_front_end_in_a_folder_are_those_of_the_front_end(make, cluster_config, tmp_path, kind):
    folder = extract_features(make(tmp_path / "features", model=kind, layers=(), format="shards", cmn=True))
    stored = cluster(cluster_config(tmp_path / "stored", features=folder))
    assert stored.read_bytes() == cluster(cluster_config(tmp_path / "heard", features=kind, cmn=True)).read_bytes()


def test_without_a_manifest_all_of_the_folder_is_labelled(make, cluster_config, layer_units, tmp_path):
    folder = extract_features(make(tmp_path / "features", format="shards"))
    config = cluster_config(tmp_path / "stored", features=folder, layer=2, clusters=4, data=DataConfig(manifests=()))
    assert cluster(config).read_bytes() == layer_units.read_bytes()


def test_centroids_of_a_folder_label_new_audio(make, cluster_config, pretrained, layer_units, tmp_path, make_corpus):
    folder = extract_features(make(tmp_path / "features", dtype="float16"))
    stored = cluster(cluster_config(tmp_path / "stored", features=folder, layer=2, clusters=4))
    other = DataConfig(manifests=(make_corpus(tmp_path / "other", [8000, 8100]),))
    kmeans = stored.parent / "kmeans.safetensors"
    config = cluster_config(
        tmp_path / "new", features="layer", checkpoint=pretrained, layer=2, kmeans=kmeans, data=other
    )
    assert read_labels(cluster(config)).source == read_labels(stored).source


def test_k_means_of_all_frames_is_the_same_from_shards_and_other_files(make, cluster_config, tmp_path):
    found = []
    for name in ("shards", "npy"):
        folder = extract_features(make(tmp_path / f"features-{name}", format=name))
        config = cluster_config(tmp_path / name, features=folder, layer=1, clusters=4, fit_frames="all")
        found.append(cluster(config).read_bytes())
        assert not (tmp_path / name / "kmeans.unfinished").exists()
    assert found[0] == found[1]


@pytest.mark.parametrize("part_s", [1.5, 600.0])  # a shard for each process or more, and one for both
def test_processes_share_all_frames(make, tmp_path, part_s):
    folder = extract_features(make(tmp_path / "features", format="shards", layers=(1,), part_s=part_s))
    source, data = stored_features(folder, 1), DataConfig(manifests=())
    rows = source.manifest.utterances
    shares = []
    for rank in range(2):
        ranks = Ranks(rank=rank, world_size=2, device=torch.device("cpu"))
        shares.append(torch.cat([block.clone() for block in source.points(data, rows, ranks).blocks()]))
    assert min(map(len, shares)) > 0
    whole = np.concatenate([array for _, array in FeatureFolder(folder).read()])
    assert sorted(map(tuple, torch.cat(shares).tolist())) == sorted(map(tuple, whole.tolist()))


def test_k_means_of_all_frames_needs_them_on_disk(cluster_config, tmp_path):
    with pytest.raises(
        ConfigError, match="fit_frames=all needs features on disk, found features=mfcc; write them with"
    ):
        cluster_config(tmp_path / "run", fit_frames="all")


def test_k_means_of_all_frames_of_a_part_of_the_folder(make, cluster_config, corpus, tmp_path):
    folder = extract_features(make(tmp_path / "features", format="shards"))
    few = corpus.parent / "few.tsv"
    write_manifest(few, read_manifest(corpus).utterances[2:5])
    data = DataConfig(manifests=(few,))
    config = cluster_config(tmp_path / "run", features=folder, layer=1, clusters=4, fit_frames="all", data=data)
    assert sorted(read_labels(cluster(config)).units) == ["u0002", "u0003", "u0004"]


def test_utterances_that_the_folder_lacks_stop_or_are_counted(
    make, cluster_config, corpus, tmp_path, make_corpus, capfd
):
    few = corpus.parent / "first.tsv"
    write_manifest(few, read_manifest(corpus).utterances[:6])
    folder = extract_features(make(tmp_path / "features", data=DataConfig(manifests=(few,))))
    with pytest.raises(
        LabelError, match=r"holds no features of u000[67]; extract the features of this manifest, or set"
    ):
        cluster(cluster_config(tmp_path / "stops", features=folder, layer=1, clusters=3))
    data = DataConfig(manifests=(corpus,), bad_audio="skip")
    cluster(cluster_config(tmp_path / "skips", features=folder, layer=1, clusters=3, data=data))
    assert "2 utterances: u0006, u0007" in capfd.readouterr().err


def test_features_of_other_audio_are_refused(make, cluster_config, tmp_path, make_corpus):
    folder = extract_features(make(tmp_path / "features"))
    other = DataConfig(manifests=(make_corpus(tmp_path / "other", [8000, 8100]),))
    with pytest.raises(LabelError, match="features of u0001 cover 9000 samples at 16 kHz, the manifest lists 8100"):
        cluster(cluster_config(tmp_path / "run", features=folder, layer=1, clusters=3, data=other))


@pytest.mark.parametrize(
    ("changes", "layer", "message"),
    [
        ({}, 3, "holds layer 1, 2, not 3; name one of these"),
        ({"pool": "mean"}, 1, r"holds means \(mean\), units need frames"),
    ],
)
def test_a_folder_that_cannot_be_clustered_says_why(make, cluster_config, tmp_path, changes, layer, message):
    folder = extract_features(make(tmp_path / "features", **changes))
    with pytest.raises(LabelError, match=message):
        cluster(cluster_config(tmp_path / "run", features=folder, layer=layer))


def test_a_word_that_is_no_folder_is_named_with_those_that_are_known(cluster_config, tmp_path):
    with pytest.raises(LabelError, match="mffc: expected mfcc, log_mel, layer or a folder of features"):
        cluster(cluster_config(tmp_path / "run", features=Path("mffc")))


def test_one_stream_of_shards_is_not_the_folder(make, cluster_config, tmp_path):
    folder = extract_features(make(tmp_path / "features", format="shards"))
    with pytest.raises(LabelError, match="is of version 1, expected 2: it is one stream of a folder"):
        cluster(cluster_config(tmp_path / "run", features=folder / "layer_1", layer=1))


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_file_is_named(make, form, tmp_path, damage):
    folder = FeatureFolder(extract_features(make(tmp_path / "out", format=form, layers=(1,), part_s=600.0)))
    files = [path for path in folder.path.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    broken = next(path for path in sorted(files) if path.name not in ("features.json", "config.json", "index.tsv"))
    if damage == "removed":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:-700])
    with pytest.raises(LabelError, match=str(folder.path)):
        list(folder.read())


@pytest.mark.parametrize(("asked", "chosen"), [(["--precision", "bfloat16"], "bfloat16"), (["--bfloat16"], "bfloat16")])
def test_features_are_computed_in_the_precision_that_is_asked_for(asked, chosen, corpus, pretrained, tmp_path, capsys):
    skip_without(chosen)
    found = {}
    for name, options in (("exact", []), ("rounded", asked)):
        folder = tmp_path / name
        assert main(["extract", str(pretrained), str(corpus), "-o", str(folder), *options]) == 0
        found[name] = dict(FeatureFolder(folder).read(layer=2))
    assert f"precision: {chosen}" in capsys.readouterr().err
    differences = [abs(found["exact"][key] - frames).max() for key, frames in found["rounded"].items()]
    assert 0 < max(differences) < 1


def test_two_precisions_are_refused(corpus, pretrained, tmp_path, capsys):
    asked = ["--bfloat16", "--precision", "int8", "-o", str(tmp_path / "out")]
    assert main(["extract", str(pretrained), str(corpus), *asked]) == 2
    assert "--bfloat16 and --precision int8 exclude each other" in capsys.readouterr().err
