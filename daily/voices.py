"""Synthetic voices: sentences → WAV files, by Debian's Festival and its Italian diphone voices.

Decision: one Festival process speaks many sentences, for its start costs more than a sentence. It is an old program
that reads Latin-1, fails on signs it has no rule for, and falls dead over a sentence without a word; so it is given
letters, digits and simple punctuation alone, and when it dies it is started again after the sentence it died of.
espeak-ng would know more languages, but Whisper base errs on it four times as often as on these voices: what a
machine alone would hear is no practice for hearing people.
"""

import os
import re
import signal
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

PROGRAM = "festival"
NO_VOICE = 3  # exit code of our script
UNSPEAKABLE = re.compile(r"[^A-Za-z0-9À-ÖØ-öø-ÿ.,;:?!']+")
ASCII_FOR = str.maketrans("’‘ʼ", "'''")
AT_ONCE = 100  # sentences a process: it keeps a megabyte of each
MOST_FAILED = 0.05  # of the sentences: beyond, it is not the sentences


@dataclass(frozen=True)
class Voice:
    """One voice of Festival."""

    name: str
    """As Festival calls it: its command is voice_NAME."""
    sex: str
    package: str
    """Debian's."""


VOICES = {
    "it": (Voice("lp_diphone", "female", "festvox-italp16k"), Voice("pc_diphone", "male", "festvox-itapc16k")),
}


@dataclass(frozen=True)
class Utterance:
    """What one voice is to say."""

    text: str
    voice: Voice


def voices_of(language: str) -> tuple[Voice, ...]:
    """The voices that speak `language`; `UserError` if there are none."""
    if language not in VOICES:
        raise UserError(f"no synthetic voice speaks {language!r}; there are voices for: {', '.join(sorted(VOICES))}")
    return VOICES[language]


def plain(text: str) -> str:
    """`text` as Festival can read it: Latin-1, without brackets, quotation marks and dashes."""
    return UNSPEAKABLE.sub(" ", unicodedata.normalize("NFC", text).translate(ASCII_FOR)).strip()


def speak(utterances: Sequence[Utterance], folder: Path, told: Callable[[], object]) -> list[Path | None]:
    """A WAV file in the empty `folder` for each utterance, None where Festival failed; `told` is called after each.

    Raises:
        UserError: there is no Festival, or not that voice, or it fails at more than `MOST_FAILED` of the sentences.
    """
    files = [folder / f"{number}.wav" for number in range(len(utterances))]
    left = sorted(
        (number for number, said in enumerate(utterances) if re.search(r"\w", plain(said.text))),
        key=lambda number: utterances[number].voice.name,
    )
    while left:
        now, later = left[:AT_ONCE], left[AT_ONCE:]
        code, last_line = _run(_script(utterances, now), folder, told)
        if code == NO_VOICE:
            raise UserError(f"{PROGRAM}: {last_line}")
        unspoken = [number for number in now if not files[number].is_file()] if code else []
        left = unspoken[1:] + later  # the first is what it died of
        _check(utterances, files, left, last_line)
    _check(utterances, files, [], "it said nothing of it")
    return [file if file.is_file() else None for file in files]


def _check(utterances: Sequence[Utterance], files: list[Path], left: list[int], last_line: str) -> None:
    """`UserError` if too many sentences that are no longer tried have no file."""
    failed = [number for number in sorted({*range(len(files))} - {*left}) if not files[number].is_file()]
    if len(failed) > max(1, MOST_FAILED * len(files)):
        raise UserError(
            f"{PROGRAM} failed at {len(failed)} of {len(files)} sentences, the first {utterances[failed[0]].text!r} "
            f"({last_line}): see whether `{PROGRAM}` works by itself"
        )


def _script(utterances: Sequence[Utterance], numbers: Sequence[int]) -> bytes:
    """What Festival is to do: each utterance of `numbers` into its file, and a line about it."""
    lines: list[str] = []
    voice = None
    for number in numbers:
        said = utterances[number]
        if said.voice != voice:
            voice = said.voice
            missing = f"voice {voice.name} is not there: apt-get install {voice.package}"
            lines.append(
                f"(if (not (symbol-bound? 'voice_{voice.name})) "
                f'(begin (format stderr "{missing}\\n") (exit {NO_VOICE})))'
            )
            lines.append(f"(voice_{voice.name})")
        synthesis = f'(utt.synth (Utterance Text "{plain(said.text)}"))'
        # Written under another name first: it may die while it writes.
        lines.append(f'(unwind-protect (utt.save.wave {synthesis} "{number}.part" \'riff) nil)')
        lines.append(f'(format t "{number}\\n") (fflush nil)')
    return "\n".join([*lines, ""]).encode("latin-1")


def _run(script: bytes, folder: Path, told: Callable[[], object]) -> tuple[int, str]:
    """Festival's exit code and last line of error; its files are renamed as they are done."""
    (folder / "say.scm").write_bytes(script)
    errors = folder / "errors.txt"
    environment = os.environ | {"HOME": str(folder)}  # no .festivalrc of anyone's
    try:
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [PROGRAM, "-b", "say.scm"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
            )
    except FileNotFoundError:
        packages = " ".join(voice.package for voices in VOICES.values() for voice in voices)
        raise UserError(f"no program {PROGRAM!r}: apt-get install {PROGRAM} {packages}") from None
    with process:
        assert process.stdout is not None  # a pipe was asked for
        for line in process.stdout:
            part = folder / f"{line.decode('ascii', 'replace').strip()}.part"
            if part.is_file():
                part.rename(part.with_suffix(".wav"))
            told()
    said = [line for line in errors.read_text("latin-1").splitlines() if line.strip()]
    how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit code {process.returncode}"
    return process.returncode, said[-1].strip() if said else how
