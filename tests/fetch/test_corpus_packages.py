"""Reading Debian's packages: those of recipes/corpora (Asterisk, fillets, tuxpaint), and pocketsphinx."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.audio.ffmpeg import ffmpeg_program
from speechssl.corpus.fetch import decode, prepare_corpus
from speechssl.corpus.fetch.pocketsphinx import find_pocketsphinx
from speechssl.data.manifest import read_manifest
from speechssl.errors import CorpusError
from tests.fetch.recipes import corpus_of_recipes

ENGLISH = {
    "activated": "Activated.",
    "at-tone-time-exactly": "At the sound of the tone, the time will be exactly...",
    "beep": "[this is a simple beep tone]",
    "confbridge-join": "<beep ascending>",
    "dictate/both_help": "press * to toggle pause",
    "digits/h-6": "sixth",
    "letters/dash": "dash [-]",
    "silence/1": "(1 second of silence)",
    "spy-iax2": 'IAX (note: does not say "2")',
    "vm-review": "Press 1 to accept, press 2: 3D audio",
    "vm-press": "Press 1 to accept, or 0.",
}


def test_asterisk_texts_hold_only_words_that_are_spoken(asterisk_tree: Callable[..., Path]) -> None:
    found = corpus_of_recipes("asterisk-en").find(asterisk_tree("en_US_f_Allison", ENGLISH, ("unlisted",)))
    assert {clip.id: clip.text for clip in found.clips} == {
        "en-activated": "activated",
        "en-at-tone-time-exactly": "at the sound of the tone the time will be exactly",
        "en-dictate-both_help": None,
        "en-digits-h-6": "sixth",
        "en-letters-dash": "dash",
        "en-spy-iax2": None,
        "en-unlisted": None,
        "en-vm-press": "press one to accept or zero",
        "en-vm-review": None,
    }
    assert found.dropped == {"no speech": ["en/beep", "en/confbridge-join", "en/silence/1"]}
    assert sorted(found.textless) == [
        "brackets in the text",
        "digits in the text",
        "not in the list of texts",
        "symbols in the text",
    ]


def test_italian_texts_with_lost_letters_are_no_texts_but_questions_are(asterisk_tree: Callable[..., Path]) -> None:
    texts = {"full": "La conferenza ? piena.", "later": "chiama pi? tardi.", "folder": "Cambia verso quale cartella?"}
    found = corpus_of_recipes("asterisk-it").find(asterisk_tree("it_IT_m_Carlo", texts))
    assert {clip.id: clip.text for clip in found.clips} == {
        "it-folder": "cambia verso quale cartella",
        "it-full": None,
        "it-later": None,
    }


@pytest.mark.skipif(ffmpeg_program() is None, reason="decodes G.722 with ffmpeg")
def test_asterisk_is_decoded_to_16_khz_and_keeps_equal_texts_together(
    asterisk_tree: Callable[..., Path], tmp_path: Path
) -> None:
    texts = {f"word{i}": "Same text." if i < 5 else f"Text {'x' * i}." for i in range(40)}
    tree = asterisk_tree("en_US_f_Allison", texts)
    for voice in ("es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU"):
        asterisk_tree(voice, {"one": "uno" if voice[:2] != "ru" else "один"})
    empty = next(tree.rglob("ru_RU*/one.g722")).with_name("is.g722")
    empty.write_bytes(b"")
    alone = prepare_corpus(corpus_of_recipes("asterisk-en"), tmp_path / "en", source=tree)
    union = prepare_corpus(corpus_of_recipes("asterisk"), tmp_path / "all", source=tree)
    labelled = read_manifest(alone["train"]).utterances
    assert {row.sample_rate for row in labelled} == {16_000}
    assert {row.num_samples for row in labelled} == {2 * 64 * 32}  # two samples a byte
    assert alone["train"].read_text() == union["train"].read_text()
    assert {row.language for row in read_manifest(union["pool"]).utterances} == {"en", "es", "fr", "it", "ru"}
    account = json.loads((tmp_path / "all/corpus.json").read_text())
    assert account["dropped"]["empty file"] == {"count": 1, "first": ["ru/is"]}


def test_without_any_ffmpeg_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(CorpusError, match="pip install imageio-ffmpeg"):
        decode._require_ffmpeg()


def test_narrowband_prompts_stay_at_8_khz_and_are_pool_only(
    tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = tmp_path / "tree/usr/share/asterisk/sounds"
    write_audio(sounds / "it_IT_f_Menardi/digits/1.wav", rate=8000)
    write_audio(sounds / "it_IT_f_Menardi/beep.wav", rate=8000)
    for language in ("fr", "es"):
        (sounds / language).mkdir()
        (sounds / language / "hello.gsm").write_bytes(language.encode() * 33)

    def pretend_to_decode(clips: list, out: Path, _: str) -> None:
        for clip in clips:
            write_audio(out / clip.path, rate=8000)

    monkeypatch.setattr(decode, "ffmpeg_program", lambda: "ffmpeg")
    monkeypatch.setattr(decode, "_decode_with_ffmpeg", pretend_to_decode)
    manifests = prepare_corpus(corpus_of_recipes("asterisk-prompts"), tmp_path / "out", source=tmp_path / "tree")
    rows = read_manifest(manifests["pool"]).utterances
    assert list(manifests) == ["pool"]
    assert {(row.id, row.sample_rate) for row in rows} == {
        ("it-menardi-it_IT_f_Menardi-digits-1", 8000),
        ("fr-armelle-fr-hello", 8000),
        ("es-co-es-hello", 8000),
    }


def test_fillets_dialogs_are_read_from_the_level_scripts(tmp_path: Path, write_audio: Callable[..., Path]) -> None:
    game = tmp_path / "usr/share/games/fillets-ng"
    (game / "script/city").mkdir(parents=True)
    (game / "script/city/dialogs_nl.lua").write_text(
        'dialogId("m-one", "font_small", "English, \\"quoted\\".")\ndialogStr("Wat is dit voor \\"raar\\" schip?")\n\n'
        'dialogId("v-two", "font_big", "x")\ndialogStr(\n"Poseidon 737.")\n'
    )
    for name in ("m-one", "v-two", "other"):
        write_audio(game / f"sound/city/nl/{name}.ogg", rate=22_050)
    (game / "sound/city/nl/broken.ogg").write_bytes(b"")
    found = corpus_of_recipes("fillets-nl").find(tmp_path)
    assert [(clip.id, clip.text, clip.speaker) for clip in found.clips] == [
        ("nl-city-m-one", "wat is dit voor raar schip", "nl-small"),
        ("nl-city-other", None, "nl-unknown"),
        ("nl-city-v-two", None, "nl-big"),
    ]
    assert found.dropped == {"holds no audio": ["city/broken"]}


def test_fillets_sounds_are_resampled(tmp_path: Path, write_audio: Callable[..., Path]) -> None:
    game = tmp_path / "tree/usr/share/games/fillets-ng"
    (game / "script").mkdir(parents=True)
    write_audio(game / "sound/city/cs/one.ogg", seconds=1, rate=22_050)
    pool = prepare_corpus(corpus_of_recipes("fillets-cs"), tmp_path / "out", source=tmp_path / "tree")["pool"]
    (row,) = read_manifest(pool).utterances
    assert (row.sample_rate, row.num_samples, row.path) == (16_000, 16_000, "audio/cs/city/one.wav")


def test_tuxpaint_keeps_one_copy_of_descriptions_that_can_be_true(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    tree = tmp_path / "tree"
    stamps = tree / "usr/share/tuxpaint/stamps/animals"
    texts = {"cat": "Un chat noir.", "twin": "Un chat noir.", "long": "mot " * 40, "two": "Les 2 chats."}
    for name, text in texts.items():
        write_audio(stamps / f"{name}_desc_fr.ogg", seconds=1)
        (stamps / f"{name}.txt").write_text(f"An animal.\nfr.utf8={text}\nro.utf8=O pisică.\n", encoding="utf-8")
    shutil.copyfile(stamps / "cat_desc_fr.ogg", stamps / "twin_desc_fr.ogg")
    write_audio(stamps / "cat_desc_lt.ogg")
    write_audio(stamps / "cat_desc.ogg")
    write_audio(stamps / "cat_desc_da.ogg")
    pool = prepare_corpus(corpus_of_recipes("tuxpaint"), tmp_path / "out", source=tree)["pool"]
    assert [(row.id, row.text) for row in read_manifest(pool).utterances] == [("fr-animals-cat", "un chat noir")]
    assert {reason: len(names) for reason, names in corpus_of_recipes("tuxpaint").find(tree).dropped.items()} == {
        "another language, with few recordings": 2,
        "no text in its language": 1,
        "fewer than 3 or more than 26 characters a second": 1,
        "digits in the text": 1,
    }


def test_copies_with_different_texts_keep_the_audio_and_no_text(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    stamps = tmp_path / "tree/usr/share/tuxpaint/stamps"
    for name, text in {"cat": "Un chat.", "dog": "Un chien."}.items():
        write_audio(stamps / f"{name}_desc_fr.ogg", seconds=1)
        (stamps / f"{name}.txt").write_text(f"x\nfr.utf8={text}\n")
    shutil.copyfile(stamps / "cat_desc_fr.ogg", stamps / "dog_desc_fr.ogg")
    pool = prepare_corpus(corpus_of_recipes("tuxpaint"), tmp_path / "out", source=tmp_path / "tree")["pool"]
    assert [(row.id, row.text) for row in read_manifest(pool).utterances] == [("fr-cat", None)]


def test_pocketsphinx_transcripts_lose_their_marks(tmp_path: Path) -> None:
    data = tmp_path / "usr/share/pocketsphinx/test/data"
    for folder, transcript in (("cards", "cards.transcription"), ("librivox", "transcription")):
        (data / folder).mkdir(parents=True)
        (data / folder / transcript).write_text("<s> ten of clubs  </s> (001)\n")
    found = find_pocketsphinx(tmp_path)
    assert [(clip.id, clip.text) for clip in found.clips] == [
        ("cards-001", "ten of clubs"),
        ("librivox-001", "ten of clubs"),
    ]
