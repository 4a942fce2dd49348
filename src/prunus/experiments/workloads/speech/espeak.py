"""Single words spoken by the program espeak-ng, in voices made of an accent and a variant."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import DataError

PROGRAM = "espeak-ng"
RATE = 22_050  # samples a second, as espeak-ng gives them
_PATIENCE = 20.0  # seconds for one word


@dataclass(frozen=True, slots=True)
class Utterance:
    """One word to be spoken.

    Attributes:
        word: The word.
        accent: A voice of espeak-ng, such as ``en-us``.
        variant: A variant of it, such as ``f2``.
        speed: Words a minute.
        pitch: 0 to 99.
    """

    word: str
    accent: str
    variant: str
    speed: int
    pitch: int


def version() -> str:
    """Return the version text of the program.

    Raises:
        DataError: espeak-ng is not installed, or fails.
    """
    # The rest of the line is the folder of its data, which does not affect the sound.
    return _output("--version").decode(errors="replace").partition("Data at")[0].strip()


def check_voices(accents: tuple[str, ...], variants: tuple[str, ...]) -> None:
    """Raise DataError unless the program knows every voice; it would silently replace an unknown one."""
    known = {name: _output(f"--voices={name}").decode(errors="replace").split() for name in ("en", "variant")}
    missing = [accent for accent in accents if accent not in known["en"]]
    missing += [variant for variant in variants if f"!v/{variant}" not in known["variant"]]
    if missing:
        raise DataError(
            f"workload 'speech': {PROGRAM} ({version()}) has no voice {', '.join(missing)}; "
            "install espeak-ng 1.51 or later with all its data."
        )


def speak(utterance: Utterance) -> Tensor:
    """Return the sound of one word.

    Shapes: (samples,) float32 in −1..1, at 22,050 samples a second.

    Raises:
        DataError: espeak-ng is not installed, fails, or gives another format.
    """
    voice = f"{utterance.accent}+{utterance.variant}"
    options = ("-v", voice, "-s", str(utterance.speed), "-p", str(utterance.pitch), "--stdout", utterance.word)
    answer = _output(*options)
    try:
        with wave.open(io.BytesIO(answer)) as file:
            form = file.getframerate(), file.getnchannels(), file.getsampwidth()
            samples = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(f"workload 'speech': {PROGRAM} {' '.join(options)} gave no sound ({error}).") from error
    if form != (RATE, 1, 2) or not samples:
        raise DataError(
            f"workload 'speech': {PROGRAM} {' '.join(options)} gave {len(samples)} bytes at rate, channels, bytes a "
            f"sample of {form}; needed: {(RATE, 1, 2)}. Use a voice of espeak-ng's own, not one of mbrola."
        )
    return torch.frombuffer(bytearray(samples), dtype=torch.int16).float() / 32_768


def _output(*words: str) -> bytes:
    program = shutil.which(PROGRAM)
    if program is None:
        raise DataError(
            f"workload 'speech' needs the program {PROGRAM}, which is not installed. "
            "Run: apt-get install espeak-ng (or your system's like)."
        )
    try:
        done = subprocess.run([program, *words], capture_output=True, check=True, timeout=_PATIENCE)
    except subprocess.CalledProcessError as error:
        output = " ".join(error.stderr.decode(errors="replace").split())[:200]
        raise DataError(
            f"workload 'speech': {PROGRAM} {' '.join(words)} failed with code {error.returncode}: {output}; "
            "install espeak-ng again."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(
            f"workload 'speech': {PROGRAM} {' '.join(words)} did not run ({type(error).__name__}); "
            "install espeak-ng again."
        ) from error
    return done.stdout
