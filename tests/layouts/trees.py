"""Small folders laid out exactly like the data of SUPERB and ML-SUPERB, with tones for speech."""

from collections.abc import Callable
from pathlib import Path

Write = Callable[..., Path]

SPEAKERS = ("id10001", "id10002", "id10270", "id10271")  # the last two are of the test set of verification
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "bed", "cat")
INTENTS = (("activate", "lights", "kitchen"), ("increase", "heat", "none"), ("change language", "none", "none"))


def voxceleb1(root: Path, write: Write, *, folders: str = "dev/wav test/wav", videos: int = 3) -> Path:
    """Write `videos` x 2 recordings of four speakers, the lists of identification and of trials."""
    dev, *rest = folders.split()
    lines, trials, of_speaker = [], [], {}
    for index, speaker in enumerate(SPEAKERS):
        folder = root / (rest[0] if rest and index > 1 else dev)
        for number in range(2 * videos):
            name = f"{speaker}/1zcIwhmde{number // 2}-{index}/{number % 2 + 1:05}.wav"
            write(folder / name, 4800 + 160 * number, seed=10 * index)
            lines.append(f"{1 + number // 2 % 3} {name}")
            of_speaker.setdefault(speaker, []).append(name)
    first, other = of_speaker["id10270"], of_speaker["id10271"]
    trials = [f"1 {first[0]} {first[1]}", f"0 {first[0]} {other[0]}", f"1 {other[1]} {other[2]}"]
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    (root / "veri_test.txt").write_text("\n".join(trials) + "\n")
    (root / "meta").mkdir()
    (root / "meta/veri_test2.txt").write_text("\n".join(trials[:2]) + "\n")
    return root


def speech_commands(root: Path, write: Write, *, version: str = "v0.01", test_set: bool = True) -> Path:
    """Write six clips a word, two seconds and a half of noise in each of two files, and the separate test set."""
    words = root / f"speech_commands_{version}"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for index, word in enumerate(WORDS):
        for number in range(6):
            name = f"{word}/{number:08x}_nohash_{number % 2}.wav"
            write(words / name, 16_000 - 1000 * (number == 0), seed=100 * index + number)
            if number >= 4:
                lists["validation_list.txt" if number == 4 else "testing_list.txt"].append(name)
    for name, listed in lists.items():
        (words / name).write_text("\n".join(listed) + "\n")
    for name in ("white_noise", "running_tap"):
        write(words / f"_background_noise_/{name}.wav", 40_000, seed=7)
    (words / "_background_noise_/README.md").write_text("Noise.\n")
    (words / "LICENSE").write_text("CC BY 4.0\n")
    if test_set:
        for index, label in enumerate((*WORDS[:10], "_unknown_", "_silence_")):
            write(root / f"speech_commands_test_set_{version}/{label}/0000000f_nohash_0.wav", 16_000, seed=index)
    return root


def iemocap(root: Path, write: Write, *, turns: int = 6) -> Path:
    """Write an improvised and a scripted dialogue for each of five sessions."""
    emotions = ("neu", "hap", "exc", "ang", "sad", "xxx")
    for number in range(1, 6):
        session = root / f"Session{number}"
        for dialogue in (f"Ses0{number}F_impro01", f"Ses0{number}M_script01_1b"):
            lines, said = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
            for turn in range(turns):
                name = f"{dialogue}_{'FM'[turn % 2]}{turn:03}"
                write(session / f"sentences/wav/{dialogue}/{name}.wav", 6400, seed=turn)
                time = f"{turn}.0000 - {turn}.4000"
                lines.append(f"[{time}]\t{name}\t{emotions[turn % 6]}\t[2.5000, 3.0000, 2.0000]")
                lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
                said.append(f"{name} [{turn:03}.0000-{turn:03}.4000]: {'Excuse me.' if turn else '[LAUGHTER] 3'}")
            for folder, content in (("EmoEvaluation", lines), ("transcriptions", said)):
                (session / "dialog" / folder).mkdir(parents=True, exist_ok=True)
                (session / "dialog" / folder / f"{dialogue}.txt").write_text("\n".join(content) + "\n")
                (session / "dialog" / folder / f"._{dialogue}.txt").write_bytes(b"Mac OS X\0\0\xb0")
        (session / "dialog/EmoEvaluation/Categorical").mkdir()
    return root


def fluent_commands(root: Path, write: Write, *, each: int = 6) -> Path:
    """Write `each` commands a split; speakers are in one split."""
    (root / "data").mkdir(parents=True)
    for index, split in enumerate(("train", "valid", "test")):
        lines = [",path,speakerId,transcription,action,object,location"]
        for number in range(each):
            path = f"wavs/speakers/spk{index}{number % 2}/{index}{number:03}e-c0de.wav"
            write(root / path, 6400, seed=number)
            words = '"Turn up, please"' if number else "Make it 20"
            lines.append(f"{number},{path},spk{index}{number % 2},{words},{','.join(INTENTS[number % 3])}")
        (root / f"data/{split}_data.csv").write_text("\n".join(lines) + "\n")
    (root / "data/speaker_demographics.csv").write_text("speakerId,Gender\n")
    return root


def librispeech_phones(root: Path, write: Write, *, each: int = 4) -> Path:
    """Write two chapters of train-clean-100 with CPC's phones and its two lists."""
    phones, names = [], []
    for speaker in (103, 1034):
        folder = root / f"LibriSpeech/train-clean-100/{speaker}/12"
        said = []
        for number in range(each):
            name = f"{speaker}-12-{number:04}"
            write(folder / f"{name}.flac", 6400, seed=speaker + number)
            said.append(f"{name} HE SAID IT")
            phones.append(f"{name} " + " ".join(str(k // 10 * 7 % 41) for k in range(40)))
            names.append(name)
        (folder / f"{speaker}-12.trans.txt").write_text("\n".join(said) + "\n")
    (root / "converted_aligned_phones.txt").write_text("\n".join(phones) + "\n")
    (root / "train_split.txt").write_text("\n".join(names[::2]) + "\n")
    (root / "test_split.txt").write_text("\n".join(names[1::2]) + "\n")
    return root


def ml_superb(root: Path, write: Write) -> Path:
    """Write two data sets of three languages: ten minutes, the hour around them, dev and test."""
    for dataset, language in (("mls", "eng"), ("fleurs", "dan"), ("fleurs", "cmn")):
        folder = root / dataset / language
        numbers = {"10min_train": range(2), "1h_train": range(4), "10min_dev": (4, 5), "10min_test": (6, 7)}
        folder.mkdir(parents=True)
        for name, listed in numbers.items():
            lines = []
            for number in listed:
                key = f"{dataset}_{language}_{number:06}"
                write(folder / f"wav/{key}.wav", 4800, seed=number)
                lines.append(f"{key} clip{number}.mp3 It's [um] well-known, no. {number}!")
            (folder / f"transcript_{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
