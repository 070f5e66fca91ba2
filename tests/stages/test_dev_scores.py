"""Scores of a development set while training: speechssl.stages.dev_scores."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from speechssl.asr.scoring.wer import score_texts
from speechssl.audio.reading import AudioConfig
from speechssl.data.dataset import SpeechDataset
from speechssl.data.manifest import read_manifest
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages import dev_scores
from speechssl.stages.dev_scores import DevSet
from speechssl.stages.score import read_hypotheses
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<blank>", "|", "a", "b", "c"))
FRAMES = 12


@pytest.fixture
def score(tiny_encoder, monkeypatch, tmp_path) -> Callable[..., dict[str, float]]:
    """Give a function that scores a model which writes the given ids, a frame each, blanks behind."""

    def run(texts: dict[str, str], answers: dict[str, list[int]], vocabulary: Vocabulary = LETTERS) -> dict[str, float]:
        torch.manual_seed(0)
        model = CTCModel(SpeechEncoder(tiny_encoder), CTCConfig(), len(vocabulary))
        batch = SimpleNamespace(ids=tuple(answers), skipped=("bad.wav: broken",), to=lambda _: None)

        def logits(_: object) -> tuple[Tensor, Tensor]:
            rows = torch.tensor([ids + [0] * (FRAMES + 3 - len(ids)) for ids in answers.values()])
            rows[:, FRAMES:] = 2  # padding, which says nothing
            return torch.nn.functional.one_hot(rows, len(vocabulary)).float(), torch.full((len(rows),), FRAMES)

        monkeypatch.setattr(model, "logits", logits)
        monkeypatch.setattr(dev_scores, "load_in_order", lambda *_, **__: iter([batch]))
        dataset = SpeechDataset.__new__(SpeechDataset)
        return DevSet(texts=texts, dataset=dataset, vocabulary=vocabulary, table=tmp_path / "dev.tsv")(model)

    return run


def test_the_first_figure_is_of_characters_and_its_parts_add_up_to_it(score) -> None:
    figures = score({"x": "ab c", "y": "cab"}, {"x": [2, 3, 1, 4, 0, 4], "y": [2]})
    assert next(iter(figures)) == "dev_cer"
    assert figures["dev_cer"] == pytest.approx((1 + 2) / 7)  # a c inserted; c and b lost
    assert figures["dev_wer"] == pytest.approx(2 / 3)
    assert figures["dev_insertions"] == pytest.approx(1 / 7)
    assert figures["dev_deletions"] == pytest.approx(2 / 7)
    assert figures["dev_substitutions"] == 0
    assert figures["dev_skipped"] == 1


def test_blanks_and_empty_texts_are_shares_of_frames_and_utterances(score) -> None:
    figures = score({"x": "a", "y": "a", "z": "a"}, {"x": [2, 2, 2], "y": [], "z": [1, 1]})
    assert figures["dev_blank_share"] == pytest.approx(1 - 5 / (3 * FRAMES))
    assert figures["dev_empty_share"] == pytest.approx(2 / 3)


def test_a_model_that_reads_is_nearer_to_the_right_texts_than_to_others(score) -> None:
    texts = {"x": "ab c", "y": "cab", "z": "b"}
    read = score(texts, {"x": [2, 3, 1, 4], "y": [4, 2, 3], "z": [3]})
    assert read["dev_cer"] == 0
    assert read["dev_others"] == pytest.approx((2 + 3 + 3) / 8)  # z against cab, y against ab c, x against b
    unread = score(texts, {key: [2, 3] for key in texts})
    assert unread["dev_others"] == pytest.approx(unread["dev_cer"])


def test_texts_that_are_all_alike_say_nothing_of_others(score) -> None:
    assert "dev_others" not in score({"x": "a", "y": "a"}, {"x": [2], "y": [2]})


def test_references_go_through_the_policy(score) -> None:
    vocabulary = Vocabulary(LETTERS.tokens, text=TextConfig(case="lower", punctuation="remove"))
    figures = score({"x": "A,  B!"}, {"x": [2, 1, 3]}, vocabulary)
    assert figures["dev_cer"] == figures["dev_wer"] == 0


def test_phones_are_scored_without_word_boundaries_and_words_by_all_their_phones(score) -> None:
    lexicon = {"ab": ("oʊ", "b"), "b": ("b",)}
    vocabulary = Vocabulary(("<blank>", "|", "b", "oʊ"), "phones", lexicon=lexicon)
    figures = score({"x": "ab b"}, {"x": [3, 1, 2, 1, 2]}, vocabulary)  # oʊ | b | b
    assert next(iter(figures)) == "dev_per"
    assert figures["dev_per"] == 0
    assert figures["dev_wer"] == 1.0  # one of two words is wrong, one inserted
    assert "dev_cer" not in figures


def test_some_texts_are_printed_and_all_lie_in_a_table_that_score_reads(score, tmp_path, capfd) -> None:
    texts = {"y": "b", "x": "a b", "v": "c", "w": "b"}
    figures = score(texts, {"v": [4], "w": [3], "x": [2, 1, 4], "y": []})
    said = capfd.readouterr().err
    assert "dev y  reference:  b\n       hypothesis: (nothing)\n" in said
    assert "dev x  reference:  a b\n       hypothesis: a c\n" in said
    assert "dev w" not in said  # three, those that stand first in the manifest
    assert score_texts(texts, read_hypotheses(tmp_path / "dev.tsv")).cer == figures["dev_cer"]


def test_figures_of_a_real_model_are_those_of_its_transcripts(tiny_encoder, corpus) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_texts(["onetwosixten"])
    model = CTCModel(SpeechEncoder(tiny_encoder), CTCConfig(), len(vocabulary)).eval()
    rows = read_manifest(corpus)
    dataset = SpeechDataset(rows, AudioConfig(), hop=tiny_encoder.hop, window=tiny_encoder.window)
    texts = {row.id: row.text or "" for row in rows.utterances}
    figures = DevSet(texts=texts, dataset=dataset, vocabulary=vocabulary)(model)
    heard = {each.id: each.text for each in dev_scores.hear(model, vocabulary, dataset)}
    assert figures["dev_cer"] == score_texts(texts, heard).cer
    assert figures["dev_empty_share"] == sum(not text for text in heard.values()) / len(texts)
