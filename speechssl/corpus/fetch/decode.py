"""Decodes published recordings to the 16 kHz mono wav files of a prepared corpus. Existing files are kept.

A mono wav of 16 kHz or less is linked, or copied, unchanged: narrowband speech stays narrowband, as its header says.
ffmpeg decodes headerless telephone codecs (G.722, GSM), and `audio/reading.py` everything else.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import soundfile

from speechssl.atomic import atomic
from speechssl.audio.ffmpeg import ffmpeg_program
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, read_audio, read_header
from speechssl.corpus.fetch.source import Clip
from speechssl.data.utterances import Utterance
from speechssl.errors import CorpusError

__all__ = ["Progress", "decode_clips", "read_utterances"]

_TELEPHONE = {".g722": "g722", ".gsm": "gsm"}  # suffix -> ffmpeg's name of the headerless codec
_BATCH = 32  # files decoded by one ffmpeg process
_WORKERS = 2
_ANY_RATE = AudioConfig(min_sample_rate=1)

Progress = Callable[[Iterable[Sequence[Clip]], int], Iterable[Sequence[Clip]]]  # arguments: batches, their number


def decode_clips(clips: Sequence[Clip], out: Path, progress: Progress) -> None:
    """Write the audio of each clip to `out / clip.path`, each file atomically.

    Args:
        clips: clips to decode.
        out: the prepared folder.
        progress: wraps the batches of clips, given their number.

    Raises:
        CorpusError: ffmpeg is needed but missing, or refuses a file.
        AudioError: another file cannot be read.
    """
    missing = [clip for clip in clips if not (out / clip.path).exists()]
    for folder in {(out / clip.path).parent for clip in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    telephone = [clip for clip in missing if clip.source.suffix in _TELEPHONE]
    others = [clip for clip in missing if clip.source.suffix not in _TELEPHONE]
    batches = [group[i : i + _BATCH] for group in (telephone, others) for i in range(0, len(group), _BATCH)]
    program = _require_ffmpeg() if telephone else ""
    with ThreadPoolExecutor(_WORKERS) as pool:
        done = pool.map(lambda batch: _decode_batch(batch, out, program), batches)
        for _ in zip(progress(batches, len(batches)), done, strict=True):
            pass


def read_utterances(clips: Sequence[Clip], out: Path, progress: Progress) -> list[Utterance]:
    """Read the header of each clip's file below `out`.

    Args:
        clips: clips, in the order of the result.
        out: the prepared folder.
        progress: wraps the batches of clips, given their number.

    Raises:
        AudioError: a file is missing or is not audio.
    """
    batches = [clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        read = pool.map(lambda batch: [_utterance(clip, out) for clip in batch], batches)
        return [row for _, rows in zip(progress(batches, len(batches)), read, strict=True) for row in rows]


def _require_ffmpeg() -> str:
    program = ffmpeg_program()
    if program is None:
        raise CorpusError(
            "no ffmpeg to decode G.722 or GSM, which soundfile cannot read; "
            "`pip install imageio-ffmpeg`, or install ffmpeg"
        )
    return program


def _decode_batch(clips: Sequence[Clip], out: Path, program: str) -> None:
    if clips[0].source.suffix in _TELEPHONE:
        _decode_with_ffmpeg(clips, out, program)
        return
    for clip in clips:
        with atomic(out / clip.path) as temporary:
            if clip.source.suffix == ".wav" and _is_kept(clip.source):
                _link_or_copy(clip.source, temporary)
            else:
                waveform = read_audio(clip.source, _ANY_RATE).clamp(-1, 1).numpy()
                soundfile.write(str(temporary), waveform, SAMPLE_RATE, subtype="PCM_16", format="WAV")


def _decode_with_ffmpeg(clips: Sequence[Clip], out: Path, program: str) -> None:
    command = [program, "-nostdin", "-v", "error", "-y"]
    for clip in clips:
        command += ["-f", _TELEPHONE[clip.source.suffix], "-i", str(clip.source)]
    with ExitStack() as stack:
        for number, clip in enumerate(clips):
            temporary = stack.enter_context(atomic(out / clip.path))
            command += ["-map", f"{number}:a", "-c:a", "pcm_s16le", "-bitexact", "-f", "wav", str(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise CorpusError(
                f"ffmpeg could not decode a batch of {len(clips)} files from {clips[0].source} on: {said[-1]}; "
                "fetch the package again, or try another ffmpeg"
            )


def _is_kept(path: Path) -> bool:
    header = read_header(path)
    return header.channels == 1 and header.sample_rate <= SAMPLE_RATE


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or links are not permitted
        shutil.copyfile(source, target)


def _utterance(clip: Clip, out: Path) -> Utterance:
    header = read_header(out / clip.path)
    return Utterance(
        id=clip.id,
        path=clip.path,
        num_samples=header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        text=clip.text,
        speaker=clip.speaker,
        language=clip.language,
    )
