"""Checkpoints of fairseq, both ways: with torchaudio and fairseq2 as judges, as fairseq itself cannot be installed."""

import dataclasses
import random
import sys
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torchaudio.models import wav2vec2_model
from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.fairseq import is_fairseq, read_fairseq, write_fairseq
from speechssl.hub.saved import SavedModel
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_targets import CopyConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from tests.hub.models import CONTRASTIVE, FORMS, SQUARE, WAVEFORM, Malicious, broken_copies, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE
from tests.optional import needs_fairseq2

METHODS = pytest.mark.parametrize("method", ["wav2vec2", "hubert", "ctc"])


def written(folder: Path, model: SavedModel) -> Path:
    write_fairseq(model, folder / "theirs.pt")
    return folder / "theirs.pt"


def state_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rewritten(path: Path, **changes: object) -> Path:
    torch.save(state_of(path) | changes, path)
    return path


def with_settings(path: Path, section: str = "model", **changes: object) -> Path:
    state = state_of(path)
    state["cfg"][section] |= changes
    torch.save(state, path)
    return path


@METHODS
@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
def test_a_model_comes_back_as_it_went(tmp_path, method, config):
    model = model_of(method, config, audio=AudioConfig(normalize=True))
    path = written(tmp_path, model)
    assert is_fairseq(path)
    back = read_fairseq(path)
    assert back.added == {}
    assert back.model.fingerprint() == model.fingerprint()
    expected = dataclasses.replace(model.description, origin="fairseq theirs.pt", family=back.model.description.family)
    assert back.model.description == expected
    assert back.model.description.pretrained_by == ("hubert" if method == "hubert" else "wav2vec2")


def test_what_was_put_in_for_fairseq_alone_is_taken_out_again(tmp_path):
    hubert, ctc = (read_fairseq(written(tmp_path / method, model_of(method))).dropped for method in ("hubert", "ctc"))
    assert [*hubert] == ["label_embs_concat, rows of <s> <pad> </s> <unk>"]
    assert [*ctc] == ["w2v_encoder.proj, rows of <pad> </s> <unk>"]


def test_several_label_streams_come_back(tmp_path):
    model = model_of("hubert", clusters=(5, 7))
    path = written(tmp_path, model)
    assert (tmp_path / "dict.km0.txt").read_text() == "".join(f"{unit} 1\n" for unit in range(5))
    with pytest.raises(CheckpointError, match="lacks the dictionaries that separate the units of its label streams"):
        read_fairseq(path)
    dictionaries = [dictionary_of([*map(str, range(number))]) for number in (5, 7)]
    with fairseq_classes():
        rewritten(path, task_state={"dictionaries": dictionaries})
    back = read_fairseq(path).model
    assert (back.description.clusters, back.fingerprint()) == ((5, 7), model.fingerprint())


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_a_fine_tuned_model_remembers_what_pretrained_it(tmp_path, family):
    path = written(tmp_path, model_of("ctc", family=family))
    assert state_of(path)["cfg"]["model"]["_name"] == {"wav2vec2": "wav2vec_ctc", "hubert": "hubert_ctc"}[family]
    assert read_fairseq(path).model.description.family == family


def test_training_settings_come_back(tmp_path):
    objective = ContrastiveConfig(dim=8, temperature=0.2, negatives=7, cross_negatives=3, diversity_weight=0.3)
    path = written(tmp_path, model_of("wav2vec2", objective=objective))
    assert read_fairseq(path).model.description.objective == objective
    objective = MaskedPredictionConfig(dim=8, masked_weight=0.0, unmasked_weight=1.0, feature_penalty=3.0)
    path = written(tmp_path / "hubert", model_of("hubert", objective=objective))
    assert read_fairseq(path).model.description.objective == objective
    ctc = CTCConfig(dropout=0.3, freeze_conv=False, freeze_steps=7)
    path = written(tmp_path / "ctc", model_of("ctc", ctc=ctc))
    assert read_fairseq(path).model.description.ctc == ctc


@METHODS
def test_an_extractor_with_the_channels_of_the_layers_has_no_projection(tmp_path, method):
    model = model_of(method, SQUARE)
    with pytest.raises(CheckpointError, match="projects 32 channels to as many, which fairseq cannot hold"):
        write_fairseq(model, tmp_path / "theirs.pt")
    assert not [*tmp_path.iterdir()]
    model.tensors["encoder.project.weight"] = torch.eye(32)
    model.tensors["encoder.project.bias"] = torch.zeros(32)
    path = written(tmp_path, model)
    assert not [name for name in state_of(path)["model"] if "post_extract_proj" in name]
    back = read_fairseq(path)
    assert [*back.added] == ["encoder.project.weight", "encoder.project.bias"]
    assert back.model.fingerprint() == model.fingerprint()


def torchaudio_reads(path: Path, model: SavedModel) -> Tensor:
    """Run torchaudio's model on the parameters as its own reader of fairseq renames them."""
    encoder, transformer = model.description.encoder, model.description.encoder.transformer
    is_tuned = model.description.ctc is not None
    theirs = {name.removeprefix("w2v_encoder."): tensor for name, tensor in state_of(path)["model"].items()}
    renamed = _convert_state_dict(theirs)
    renamed.pop("label_embs_concat", None)  # it loads them loosely
    judge = wav2vec2_model(
        extractor_mode={"group": "group_norm", "layer": "layer_norm"}[encoder.conv_norm],
        extractor_conv_layer_config=[*encoder.conv],
        extractor_conv_bias=encoder.conv_bias,
        encoder_embed_dim=transformer.dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=transformer.position_kernel,
        encoder_pos_conv_groups=transformer.position_groups,
        encoder_num_layers=transformer.num_layers,
        encoder_num_heads=transformer.num_heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=transformer.ffn_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=transformer.norm == "pre",
        encoder_layer_drop=0.0,
        aux_num_out=len(theirs["proj.bias"]) if is_tuned else None,
    ).eval()
    judge.load_state_dict(renamed)  # strictly
    with torch.no_grad():
        return judge(WAVEFORM[None])[0][0]


@FORMS
@METHODS
def test_torchaudio_reads_what_we_write_with_the_same_output(tmp_path, config, method):
    model = model_of(method, config)
    found = torchaudio_reads(written(tmp_path, model), model)
    if method == "ctc":
        assert bool((found[:, 1:4] < -9_000).all())  # signs that we do not have
        found = found[:, [0, *range(4, found.shape[1])]]
    torch.testing.assert_close(found, our_output(model), rtol=1e-5, atol=1e-5)


@needs_fairseq2
@FORMS
@pytest.mark.filterwarnings("ignore:`hg_exporter` is deprecated:DeprecationWarning")
def test_fairseq2_renames_what_we_write_to_the_names_of_our_table(tmp_path, config):
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
    from fairseq2.models.wav2vec2.asr.interop import convert_wav2vec2_asr_state_dict

    from speechssl.hub.names import name_table, rename_from

    model = model_of("ctc", config)
    letters = ("<blank>", "<pad>", "</s>", "<unk>", *model.description.vocabulary[1:])
    order = {"post": TransformerNormOrder.POST, "pre": TransformerNormOrder.PRE}[config.transformer.norm]
    theirs = convert_wav2vec2_asr_state_dict(
        state_of(written(tmp_path, model)),
        Wav2Vec2AsrConfig(encoder_config=Wav2Vec2EncoderConfig(norm_order=order)),
    )
    table = name_table(dataclasses.replace(model.description, vocabulary=letters), "fairseq2")
    tensors, left = rename_from(theirs, table, where="fairseq2")
    assert not left
    for name, tensor in tensors.items():
        rows = [0, *range(4, 8)] if name.startswith("head.") else slice(None)
        assert torch.equal(tensor[rows], model.tensors[name])


class Dictionary:
    """As fairseq's, whose name it takes in `fairseq_classes`."""


class AverageMeter:
    """As fairseq's."""


def dictionary_of(units: list[str]) -> Dictionary:
    dictionary = Dictionary()
    dictionary.symbols = ["<s>", "<pad>", "</s>", "<unk>", *units]
    dictionary.count = [1] * len(dictionary.symbols)
    dictionary.indices = {sign: row for row, sign in enumerate(dictionary.symbols)}
    dictionary.nspecial = 4
    return dictionary


class MetersDict(OrderedDict[str, AverageMeter]):
    """As fairseq's: a dictionary with an attribute."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.priorities = [(0, name) for name in self]


class DictConfig:
    """As omegaconf's, with what its state holds."""

    def __init__(self, values: dict[str, object]) -> None:
        self._metadata, self._parent = None, self
        self._content = {key: DictConfig(v) if isinstance(v, dict) else AnyNode(v) for key, v in values.items()}


class AnyNode:
    """As omegaconf's."""

    def __init__(self, value: object) -> None:
        self._val = value


class fairseq_classes:  # noqa: N801
    """Lets the classes above be pickled under the names they have in fairseq and omegaconf."""

    places = (
        (Dictionary, "fairseq.data.dictionary"),
        (AverageMeter, "fairseq.meters"),
        (MetersDict, "fairseq.logging.meters"),
        (DictConfig, "omegaconf.dictconfig"),
        (AnyNode, "omegaconf.nodes"),
    )

    def __enter__(self) -> None:
        for kind, module in self.places:
            for name in (module.partition(".")[0], module):
                sys.modules[name] = ModuleType(name)
            setattr(sys.modules[module], kind.__name__, kind)
            kind.__module__ = module

    def __exit__(self, *_: object) -> None:
        for kind, module in self.places:
            for name in (module.partition(".")[0], module):
                sys.modules.pop(name, None)
            kind.__module__ = __name__


def in_old_layout(path: Path, *, is_zip: bool = True) -> Path:
    """Rewrite a checkpoint as fairseq did until 2020: one flat namespace, nested for a fine-tuned model."""
    state = state_of(path)
    cfg = state.pop("cfg")
    flat = {**(cfg["criterion"] or {}), **cfg["task"], **cfg["model"], "arch": cfg["model"]["_name"]}
    if "w2v_args" in flat:
        inner = flat["w2v_args"]
        flat["w2v_args"] = Namespace(**inner["task"] | inner["model"] | {"arch": inner["model"]["_name"]})
        del flat["w2v_args"]._name
    else:
        flat |= {"latent_temp": str(flat.get("latent_temp")), "loss_weights": str(flat["loss_weights"])}
    del flat["_name"]
    meter = AverageMeter()
    meter.sum, meter.count = 1.0, 2
    state |= {"args": Namespace(**flat), "extra_state": {"train_meters": {"loss": meter}}}
    with fairseq_classes():
        torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    return path


@METHODS
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_the_layout_of_2020_is_read(tmp_path, method, is_zip):
    model = model_of(method, audio=AudioConfig(normalize=True))
    path = written(tmp_path, model)
    new = read_fairseq(path).model.description
    assert is_fairseq(in_old_layout(path, is_zip=is_zip))
    old = read_fairseq(path).model
    assert (old.description, old.fingerprint()) == (new, model.fingerprint())


@METHODS
def test_settings_kept_in_containers_of_omegaconf_are_read(tmp_path, method):
    model = model_of(method)
    path = written(tmp_path, model)
    plain = read_fairseq(path).model.description
    with fairseq_classes():
        rewritten(path, cfg=DictConfig(state_of(path)["cfg"]))
    assert read_fairseq(path).model.description == plain


def test_defaults_hold_where_a_file_says_nothing(tmp_path):
    path = written(tmp_path, model_of("wav2vec2"))
    kept = {"_name", "quantize_targets", "conv_feature_layers", "encoder_embed_dim", "encoder_layers", "conv_pos"}
    kept |= {"conv_pos_groups", "encoder_attention_heads", "encoder_ffn_embed_dim"}
    kept |= {"final_dim", "latent_dim", "latent_vars"}
    state = state_of(path)
    state["cfg"] = {"model": {key: value for key, value in state["cfg"]["model"].items() if key in kept}}
    torch.save(state, path)
    description = read_fairseq(path).model.description
    assert description.audio.normalize is False
    assert description.objective == dataclasses.replace(model_of("wav2vec2").description.objective, feature_dropout=0.0)
    transformer = description.encoder.transformer
    assert (transformer.dropout, transformer.layer_drop, description.encoder.conv_grad_scale) == (0.1, 0.0, 1.0)


def test_the_convolutions_may_be_an_expression(tmp_path):
    path = written(tmp_path, model_of("hubert", dataclasses.replace(BASE_LIKE, conv=((8, 10, 5), *[(16, 3, 2)] * 2))))
    with_settings(path, conv_feature_layers="[(8,10, 5)] + [(16, 3, 2)] * 1 + 1 * [(16,3,2)]")
    assert read_fairseq(path).model.description.encoder.conv == ((8, 10, 5), (16, 3, 2), (16, 3, 2))


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').system('true')", "[(8, 10, 5)] * 10**9", "[(8, 10, 5)] * 1001", "[(8, 10", "(" * 5000],
)
def test_an_expression_that_is_no_list_of_convolutions_is_refused(tmp_path, expression):
    path = with_settings(written(tmp_path, model_of("wav2vec2")), conv_feature_layers=expression)
    with pytest.raises(CheckpointError, match="settings cannot be understood"):
        read_fairseq(path)


def test_the_dictionary_tells_which_row_is_which_unit(tmp_path):
    model = model_of("hubert")
    path = written(tmp_path, model)
    state = state_of(path)
    by_frequency = [3, 0, 4, 1, 2]
    whole = state["model"]["label_embs_concat"]
    state["model"]["label_embs_concat"] = torch.cat([whole[:4], whole[4:][by_frequency]])
    state["task_state"] = {"dictionaries": [dictionary_of([*map(str, by_frequency)])]}
    with fairseq_classes():
        torch.save(state, path)
    assert read_fairseq(path).model.fingerprint() == model.fingerprint()


def test_units_that_are_no_numbers_keep_their_order(tmp_path):
    path = written(tmp_path, model_of("hubert"))
    with fairseq_classes():
        rewritten(path, task_state={"dictionaries": [dictionary_of(["aa", "ae", "b", "k", "s"])]})
    assert read_fairseq(path).model.fingerprint() == model_of("hubert").fingerprint()


def test_dictionaries_of_another_model_are_refused(tmp_path):
    path = written(tmp_path, model_of("hubert"))
    with fairseq_classes():
        rewritten(path, task_state={"dictionaries": [dictionary_of(["0", "1"])]})
    with pytest.raises(CheckpointError, match=r"label_embs_concat has shape \(9, 8\), expected 6 rows"):
        read_fairseq(path)


def test_a_fine_tuned_hubert_may_keep_embeddings_that_it_does_not_use(tmp_path):
    path = written(tmp_path, model_of("ctc", family="hubert"))
    name = "w2v_encoder.w2v_model.label_embs_concat"
    rewritten(path, model=state_of(path)["model"] | {name: torch.zeros(9, 8)})
    assert read_fairseq(path).dropped[name] == "belongs to pretraining; a fine-tuned model does not use it"


@pytest.mark.parametrize("is_saved", [True, False], ids=["in the file", "beside it"])
def test_the_vocabulary_is_the_dictionary_with_the_blank_for_its_first_sign(tmp_path, is_saved):
    path = written(tmp_path, model_of("ctc"))
    state = state_of(path)
    state["model"]["w2v_encoder.proj.bias"][1:4] = 0.5  # now they were trained
    if is_saved:
        state["task_state"] = {"target_dictionary": dictionary_of(["|", "a", "б", "न"])}
        (tmp_path / "dict.ltr.txt").unlink()
    with fairseq_classes():
        torch.save(state, path)
    back = read_fairseq(path)
    assert back.model.description.vocabulary == ("<blank>", "<pad>", "</s>", "<unk>", "|", "a", "б", "न")
    assert back.dropped == {}
    again = read_fairseq(written(tmp_path / "again", back.model)).model
    assert (again.fingerprint(), again.description.vocabulary) == (
        back.model.fingerprint(),
        back.model.description.vocabulary,
    )


def test_a_model_without_its_vocabulary_says_where_to_put_it(tmp_path):
    path = written(tmp_path, model_of("ctc"))
    (tmp_path / "dict.ltr.txt").unlink()
    with pytest.raises(CheckpointError, match=r"theirs\.pt: holds no vocabulary; put dict\.ltr\.txt, .* beside it"):
        read_fairseq(path)
    (tmp_path / "dict.ltr.txt").write_text("| 1\na 1\n")
    with pytest.raises(CheckpointError, match=r"its head has 8 outputs, its vocabulary 6; .* belongs to another model"):
        read_fairseq(path)


@pytest.mark.parametrize("letter", ["<s>", "a b", ""])
def test_a_vocabulary_that_fairseq_cannot_hold_is_refused(tmp_path, letter):
    with pytest.raises(CheckpointError, match="where a dictionary of fairseq takes letters only"):
        write_fairseq(model_of("ctc", vocabulary=("<blank>", "|", "a", "b", letter)), tmp_path / "theirs.pt")
    assert not [*tmp_path.iterdir()]


def test_what_we_write_holds_plain_containers_alone(tmp_path):
    for method in ("wav2vec2", "hubert", "ctc"):
        written(tmp_path / method, model_of(method))
    for path in tmp_path.rglob("*.pt"):
        assert not torch.serialization.get_unsafe_globals_in_checkpoint(path)


def test_settings_that_fairseq_lacks_are_reported(tmp_path):
    mask = dataclasses.replace(MaskedPredictionConfig().mask, min_spans=5)
    dropped = write_fairseq(
        model_of("hubert", objective=MaskedPredictionConfig(dim=8, mask=mask)), tmp_path / "theirs.pt"
    )
    assert dropped == {"objective.mask.min_spans": "fairseq draws 2 at least"}
    changed = dataclasses.replace(CONTRASTIVE, loudness_neighbours=3, copy=CopyConfig(tilt=0.1))
    dropped = write_fairseq(model_of("wav2vec2", objective=changed), tmp_path / "changed.pt")
    assert {*dropped} == {"objective.loudness_neighbours", "objective.copy"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of("encoder"), "is a bare encoder; fairseq loads models with their head only"),
        (
            model_of("hubert", objective=MaskedPredictionConfig(logits="linear")),
            "has linear logits; fairseq's HuBERT has cosine ones only",
        ),
    ],
    ids=["bare", "linear"],
)
def test_a_model_that_fairseq_has_no_form_for_is_refused(tmp_path, model, message):
    with pytest.raises(CheckpointError, match=message):
        write_fairseq(model, tmp_path / "theirs.pt")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("existing", ["theirs.pt", "dict.ltr.txt"])
def test_nothing_is_written_over(tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(CheckpointError, match=f"{existing}: exists already; name another target, or remove it"):
        write_fairseq(model_of("ctc"), tmp_path / "theirs.pt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "mine")]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        write_fairseq(model_of("ctc"), tmp_path / "theirs.pt")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["extra_state", "model", "args"])
def test_a_pickle_that_would_run_code_runs_none(tmp_path, monkeypatch, is_zip, place):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = written(tmp_path, model_of("wav2vec2"))
    state = state_of(path) | {place: {"harm": Malicious(tmp_path / "harm")}}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    assert is_fairseq(path) or place == "model"
    with pytest.raises(CheckpointError, match=r"names getattr, .* nothing of it was executed"):
        read_fairseq(path)
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "harm").exists()  # it would have


def test_the_classes_that_are_allowed_run_no_code_either(tmp_path):
    class Trap(Dictionary):
        def __reduce__(self) -> tuple[object, ...]:
            return (Dictionary, (Namespace(),), {"symbols": ["a"], "__class__": int}, None, iter({"a": 1}.items()))

    path = written(tmp_path, model_of("wav2vec2"))
    with fairseq_classes():
        rewritten(path, extra_state=Trap())
    try:
        found = read_fairseq(path)
    except CheckpointError as refused:  # torch from 2.14 on fills dictionaries alone
        assert "Can only SETITEM for dict" in str(refused.__cause__)
    else:
        assert found.model.fingerprint() == model_of("wav2vec2").fingerprint()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_dictionaries_of_their_own_and_of_python_are_passed_over(tmp_path, is_zip):
    path = written(tmp_path, model_of("wav2vec2"))
    meter = AverageMeter()
    meter.sum, meter.count = 1.0, 2
    extra = {"train_meters": MetersDict({"loss": meter}), "counts": defaultdict(list, {"a": [1]})}
    with fairseq_classes():
        torch.save(state_of(path) | {"extra_state": extra}, path, _use_new_zipfile_serialization=is_zip)
    assert read_fairseq(path).model.fingerprint() == model_of("wav2vec2").fingerprint()


def test_broken_files_are_named(tmp_path):
    path = written(tmp_path, model_of("wav2vec2"))
    for content in broken_copies(path.read_bytes()):
        path.write_bytes(content)
        is_fairseq(path)
        with pytest.raises(CheckpointError, match=r"theirs\.pt: cannot be read .* truncated, or no checkpoint"):
            read_fairseq(path)
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: cannot be read"):
        read_fairseq(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, {"model": {"a": 1}}, {"model": {"a": torch.zeros(1)}}])
def test_files_of_another_kind_are_named(tmp_path, content):
    torch.save(content, tmp_path / "theirs.pt")
    assert not is_fairseq(tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=r"theirs\.pt: (expected|a is a int, expected|lacks the settings)"):
        read_fairseq(tmp_path / "theirs.pt")


def test_parameters_that_do_not_fit_the_settings_are_named(tmp_path):
    path = written(tmp_path, model_of("wav2vec2"))
    whole = state_of(path)["model"]
    fewer = {name: tensor for name, tensor in whole.items() if name != "mask_emb"}
    cases = {
        r"lacks 1 parameters of its architecture: mask_emb": fewer,
        r"1 parameters have no place in this architecture: extra": whole | {"extra": torch.zeros(1)},
        r"mask_emb has shape \(3,\), which does not fit the \(32,\)": whole | {"mask_emb": torch.zeros(3)},
    }
    for message, tensors in cases.items():
        with pytest.raises(CheckpointError, match=message):
            read_fairseq(rewritten(path, model=tensors))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_name": "data2vec_audio"}, "is a model of architecture 'data2vec_audio', expected one of wav2vec2, hubert"),
        ({"quantize_input": True}, "has quantize_input=True, supported is only False"),
        ({"quantize_targets": False}, "has quantize_targets=False, supported is only True"),
        ({"quantizer_depth": 2}, "has quantizer_depth=2, supported is only 1"),
        ({"target_glu": True}, "has target_glu=True, supported is only False"),
        ({"codebook_negatives": 5}, "has codebook_negatives=5, supported is only 0"),
        ({"layer_type": "conformer"}, "has layer_type='conformer', supported is only 'transformer'"),
        ({"pos_conv_depth": 5}, "has pos_conv_depth=5, supported is only 1"),
        ({"encoder_layers": "many"}, "encoder.transformer.num_layers.* the settings of the file are broken"),
        ({"encoder_attention_heads": 5}, "expected a multiple of num_heads"),
        ({"mask_length": 0}, "its settings cannot be understood .ZeroDivisionError"),
        ({"extractor_mode": "batch"}, "its settings cannot be understood .*'batch'"),
        ({"latent_temp": "(1, 2"}, "its settings cannot be understood"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, message):
    path = with_settings(written(tmp_path, model_of("wav2vec2")), **changes)
    with pytest.raises(CheckpointError, match=message):
        read_fairseq(path)


def test_another_sample_rate_is_refused(tmp_path):
    path = with_settings(written(tmp_path, model_of("wav2vec2")), "task", sample_rate=8000)
    with pytest.raises(CheckpointError, match="takes 8000 samples a second, expected 16000"):
        read_fairseq(path)


def test_training_settings_that_we_lack_are_reported(tmp_path):
    path = with_settings(written(tmp_path, model_of("hubert")), mask_selection="normal", mask_channel_prob=0.2)
    dropped = read_fairseq(path).dropped
    assert dropped["mask_selection=normal"] == "training here is as with static"
    assert dropped["mask_channel_prob=0.2"] == "pretraining here masks no channels"


def their_text(signs: list[str], post_process: str) -> str:
    """Write signs as fairseq's `post_process` does: of the signs with blanks between, by replacing."""
    text = " ".join(sign for sign in signs if sign not in ("<s>", "</s>"))
    if post_process in ("letter", "sentencepiece", "wordpiece"):
        text = text.replace(" ", "").replace({"letter": "|", "sentencepiece": "▁", "wordpiece": "_"}[post_process], " ")
    return " ".join(text.replace("<SIL>", "" if post_process == "silence" else "<SIL>").split())


@pytest.mark.parametrize(
    ("labels", "post_process", "signs"),
    [
        ("ltr", "letter", ["|", "a", "б", "'"]),
        ("phn", "none", ["t", "ʃ", "tʃ", "a"]),
        (["phn"], "silence", ["t", "<SIL>", "tʃ", "a"]),
        ("phn", "none", ["t", "|", "tʃ", "a"]),
        ("wrd", "none", ["the", "cat", "sat", "on"]),
        ("ltr", "sentencepiece", ["▁", "▁the", "s", "▁cat"]),
        ("ltr", "wordpiece", ["_the", "s", "cat", "_"]),
    ],
)
def test_texts_are_those_that_fairseq_makes_of_its_signs(tmp_path, labels, post_process, signs):
    path = written(tmp_path, model_of("ctc"))
    state = state_of(path)
    state["model"]["w2v_encoder.proj.bias"][1:4] = 0.5  # as a model of theirs, whose head has the four signs
    state["cfg"]["task"]["labels"] = labels
    state["cfg"]["criterion"]["post_process"] = post_process
    torch.save(state, path)
    name = labels if isinstance(labels, str) else labels[0]
    (tmp_path / f"dict.{name}.txt").write_text("".join(f"{sign} 1\n" for sign in signs), encoding="utf-8")
    vocabulary = read_fairseq(path).model.vocabulary()
    draw = random.Random(0)
    for _ in range(50):
        ids = draw.choices(range(1, 8), k=12)
        said = [["<s>", "<pad>", "</s>", "<unk>", *signs][token] for token in ids]
        assert vocabulary.decode(ids) == their_text(said, post_process)


@pytest.mark.parametrize("written_in", ["letters", "phones", "pieces"])
def test_what_tokens_are_comes_back(tmp_path, written_in):
    pieces = {"vocabulary": ("<blank>", "▁a", "▁", "б", "न"), "piece_scores": (-1.0,) * 4}
    model = model_of("ctc", written_in=written_in, **(pieces if written_in == "pieces" else {}))
    back = read_fairseq(written(tmp_path, model)).model
    assert back.description.written_in == written_in
    assert back.vocabulary().decode([3, 1, 2, 4]) == model.vocabulary().decode([3, 1, 2, 4])


def test_phones_that_would_be_run_together_keep_their_blanks(tmp_path):
    path = with_settings(written(tmp_path, model_of("ctc", written_in="phones")), "criterion", post_process="letter")
    assert read_fairseq(path).model.description.written_in == "phones"


def test_another_way_to_write_texts_is_named(tmp_path):
    path = with_settings(written(tmp_path, model_of("ctc")), "criterion", post_process="_EOW")
    with pytest.raises(CheckpointError, match="texts are written with post_process='_EOW', supported are letter"):
        read_fairseq(path)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("| 1\na 1\nб 1 #fairseq:overwrite\nन 1\n", ("<blank>", "|", "a", "б", "न")),
        ("| 1\n\u2028 1\nб 1\nन -1\n", ("<blank>", "|", "\u2028", "б", "न")),
        ("| 1\na\nб 1\nन 1\n", r"dict\.ltr\.txt:2: expected a sign, a blank and its count, found 'a'"),
        ("| 1\na 1\na 1\nन 1\n", r"dict\.ltr\.txt:3: has 'a' a second time"),
    ],
)
def test_lines_of_a_dictionary_are_read_as_fairseq_reads_them(tmp_path, lines, found):
    path = written(tmp_path, model_of("ctc"))
    (tmp_path / "dict.ltr.txt").write_text(lines, encoding="utf-8")
    if isinstance(found, tuple):
        assert read_fairseq(path).model.description.vocabulary == found
        return
    with pytest.raises(CheckpointError, match=found):
        read_fairseq(path)
