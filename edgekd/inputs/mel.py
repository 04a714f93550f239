"""LogMel: turns waveforms into log-mel spectrograms or MFCC, in the training loop and in the exported graph."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d

from edgekd.inputs.spectrum import dct, mel_filters, windowed_dft

FLOOR = 1e-6  # added to the power of a band before its logarithm


class LogMel(nn.Module):
    """Waveforms float32 `[n, samples]` in -1..1 to float32 `[n, 1, bands, frames]`, frames = samples // hop_length + 1.

    Frame i is centred on sample `i * hop_length`, with zeros beyond both ends (librosa's default). The power in each mel
    band is that of a windowed DFT; the values are `log(power + 1e-6)`, or the first `n_mfcc` of their DCT-II.

    Every step is a convolution with fixed kernels, because TensorRT has neither STFT nor complex numbers.
    """

    # All have a height of 1: convolutions of one dimension have no kernels in some runtimes.
    dft: Tensor
    mel: Tensor
    dct: Tensor | None

    def __init__(
        self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, f_min: float, f_max: float, n_mfcc: int = 0
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        dft, mel, cosines = kernels(sample_rate, n_fft, n_mels, f_min, f_max, n_mfcc)
        self.register_buffer("dft", dft)
        self.register_buffer("mel", mel)
        self.register_buffer("dct", cosines)

    def forward(self, waveform: Tensor) -> Tensor:
        if not waveform.is_cuda or torch.compiler.is_exporting():
            return self.spectrogram(waveform)
        # By default cuDNN rounds what a convolution reads to TF32, of 11 bits: the graph would see another spectrogram.
        cudnn = torch.backends.cudnn
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False):
            return self.spectrogram(waveform)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """The same, in the precision of convolutions that torch is set to."""
        x = waveform.reshape(-1, 1, 1, waveform.shape[1])
        parts = conv2d(x, self.dft, stride=(1, self.hop_length), padding=(0, self.n_fft // 2))
        y = torch.log(conv2d(parts * parts, self.mel) + FLOOR)
        if self.dct is not None:
            y = conv2d(y, self.dct)
        return y.reshape(-1, 1, y.shape[1], y.shape[3])


@lru_cache(maxsize=8)
def kernels(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float, n_mfcc: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The kernels of the DFT, the mel filters and the DCT, each float32 `[out, in, 1, width]`.

    They are kept, because the loop makes a module for each batch. Nobody writes to them.
    """
    filters = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max)
    # The same filter reads the squares of the real and of the imaginary part: their sum is the power.
    mel = _kernel(np.concatenate([filters, filters], 1)[:, :, None, None])
    cosines = _kernel(dct(n_mfcc, n_mels)[:, :, None, None]) if n_mfcc else None
    return _kernel(windowed_dft(n_fft)[:, None, None, :]), mel, cosines


def _kernel(values: NDArray[np.float64]) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first: an export needs tensors of the usual kind
        return torch.from_numpy(values.astype(np.float32))
