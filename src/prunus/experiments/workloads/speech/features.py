"""The steps from sound to log-mel spectrograms: position in a window, noise at a level, the spectrogram as bytes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from prunus.experiments.workloads.speech.espeak import RATE

FRAME, HOP = 512, 384  # samples of a frame, and from frame to frame
FRAMES, BANDS = 48, 32
WINDOW = FRAME + (FRAMES - 1) * HOP  # samples: 0.84 s
LOW, HIGH = 60.0, 8_000.0  # hertz
RANGE = 80.0  # decibels below the loudest value that are still shown
_QUIET = 0.005  # share of the loudest sample: lower values at both ends are silence


def placed(sound: Tensor, lead: float) -> Tensor:
    """Return the word in a window without the silence around it; ``lead`` (0..1) of the free time precedes it.

    A word longer than the window is cut off at its end.

    Shapes: (samples,) → (WINDOW,).
    """
    loud = (sound.abs() > _QUIET * sound.abs().max()).nonzero()[:, 0]
    word = sound[int(loud[0]) : int(loud[-1]) + 1][:WINDOW] if len(loud) else sound[:0]
    window = torch.zeros(WINDOW)
    start = int(lead * (WINDOW - len(word)))
    window[start : start + len(word)] = word
    return window


def noisy(sounds: Tensor, decibels: Tensor, generator: np.random.Generator) -> Tensor:
    """Return the sounds with added noise at a signal-to-noise ratio in decibels.

    The noise is coloured: its power falls with frequency as f^−a, a uniform in 0..1.5.

    Args:
        sounds: Windows with silence around the word.
        decibels: The signal-to-noise ratio of each; the power of a word is its mean outside of silence.
        generator: The source of the noise.

    Shapes: sounds (N, WINDOW), decibels (N) → (N, WINDOW).
    """
    white = torch.from_numpy(generator.standard_normal(tuple(sounds.shape), dtype=np.float32))
    slope = torch.from_numpy(generator.random(len(sounds), dtype=np.float32)) * 1.5
    spectrum = torch.fft.rfft(white)
    places = torch.arange(spectrum.shape[1]).clamp(min=1)
    noise = torch.fft.irfft(spectrum * places ** (-slope[:, None] / 2), n=sounds.shape[1])
    power = sounds.square().sum(1) / (sounds != 0).sum(1).clamp(min=1)
    level = (power / 10 ** (decibels / 10)).sqrt() / noise.square().mean(1).sqrt()
    found: Tensor = sounds + level[:, None] * noise
    return found


def log_mel(sounds: Tensor) -> Tensor:
    """Return log-mel spectrograms as bytes: 255 is the loudest value of each, 0 is 80 decibels below.

    |STFT|² of Hann windows, summed in triangular bands of equal width on the mel scale m = 2595·log10(1 + f/700).
    Source: Davis & Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition", 1980.

    Shapes: (N, WINDOW) → (N, BANDS, FRAMES) uint8.
    """
    frames = torch.stft(
        sounds, FRAME, HOP, window=torch.hann_window(FRAME), center=False, return_complex=True
    )  # (N, FRAME/2 + 1, FRAMES)
    power = mel_filters() @ frames.abs().square()
    decibels = 10 * (power + 1e-10).log10()
    below = decibels - decibels.amax((1, 2), keepdim=True)
    return ((1 + below / RANGE).clamp(min=0) * 255).round().to(torch.uint8)


def mel_filters() -> Tensor:
    """Return the weight of each frequency in each band.

    Shapes: (BANDS, FRAME/2 + 1).
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (LOW, HIGH))
    edges = 700 * (10 ** (torch.linspace(low, high, BANDS + 2) / 2595) - 1)
    frequencies = torch.arange(FRAME // 2 + 1) * RATE / FRAME
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    # Low bands are narrower than one step of the transform; each has at least its nearest frequency.
    nearest = (frequencies - edges[1:-1, None]).abs().argmin(1)
    filters = torch.minimum(rise, fall).clamp(min=0)
    return torch.where(filters.sum(1, keepdim=True) > 0, filters, torch.eye(len(frequencies))[nearest])
