"""Pictures of `superb`."""

import json

import pytest
from matplotlib.image import imread

from speechssl.errors import CheckpointError
from speechssl.report.superb_plot import plot_layer_weights, plot_scores


def row(task: str, model: str, layers: list[int]) -> dict:
    weights = [1 / len(layers)] * len(layers)
    scores = {"mean": 0.5, "low": 0.4, "high": 0.6, "score": "accuracy"}
    return {"task": task, "model": model, "layers": layers, "weights": weights, **scores}


def test_scores_and_weights_are_drawn(tmp_path):
    rows = [row("sid", "a", [0, 1, 2]), row("ks", "a", [0, 1, 2]), row("sid", "mfcc", [0])]
    (tmp_path / "superb.json").write_text(json.dumps({"rows": rows}))
    plot_scores(tmp_path / "superb.json", tmp_path / "scores.png")
    assert plot_layer_weights(tmp_path / "superb.json", tmp_path / "weights.png")
    for name in ("scores.png", "weights.png"):
        assert imread(tmp_path / name).std() > 0.05, "a picture that is not blank"


def test_front_ends_have_no_weights_to_draw(tmp_path):
    (tmp_path / "superb.json").write_text(json.dumps({"rows": [row("ks", "mfcc", [0])]}))
    assert not plot_layer_weights(tmp_path / "superb.json", tmp_path / "weights.png")
    assert not (tmp_path / "weights.png").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{"task": "ks"}]}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "superb.json").write_text(content)
    with pytest.raises(CheckpointError, match="expected the scores of superb"):
        plot_scores(tmp_path / "superb.json", tmp_path / "scores.png")
