"""Spectrum: the matrices of a log-mel spectrogram in float64: windowed DFT, mel filters, DCT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def windowed_dft(n_fft: int) -> NDArray[np.float64]:
    """`[2 * (n_fft // 2 + 1), n_fft]`: the real parts of a DFT with a periodic Hann window, then its imaginary parts."""
    sample = np.arange(n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / n_fft)
    # Whole turns are taken off before the angle is rounded.
    angle = 2 * np.pi * (np.arange(n_fft // 2 + 1)[:, None] * sample % n_fft) / n_fft
    return np.concatenate([np.cos(angle), -np.sin(angle)]) * window


def mel_corners(n_mels: int, f_min: float, f_max: float) -> NDArray[np.float64]:
    """`[n_mels + 2]` in Hz: band i begins at corner i, has its peak at the next one, and ends at the one after that."""
    low, high = 2595 * np.log10(1 + np.array([f_min, f_max]) / 700)
    corners: NDArray[np.float64] = 700 * (10 ** (np.linspace(low, high, n_mels + 2) / 2595) - 1)
    return corners


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> NDArray[np.float64]:
    """`[n_mels, n_fft // 2 + 1]`: triangles of height 1 on the mel scale of HTK, `2595 log10(1 + f / 700)`, as torchaudio's."""
    corners = mel_corners(n_mels, f_min, f_max)
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return triangles


def dct(n_mfcc: int, n_mels: int) -> NDArray[np.float64]:
    """`[n_mfcc, n_mels]`: the first rows of the orthonormal DCT-II."""
    rows: NDArray[np.float64] = np.cos(
        np.pi * np.arange(n_mfcc)[:, None] * (np.arange(n_mels) + 0.5) / n_mels
    ) * np.sqrt(2 / n_mels)
    rows[0] /= np.sqrt(2)
    return rows
