"""round_weight: AdaRound chooses up or down for each weight (Nagel et al. 2020, 2004.10568).

A layer's output is linear in its weight. The cost of rounding, E||W x - W̃ x̃||², therefore follows from second moments of
the inputs (equation 20; asymmetric as in equation 25, without the activation function). Let Δ = W̃ - W, A = E[x̃ x̃ᵀ] and R
= E[x̃ (x̃ - x)ᵀ] Wᵀ. The cost is `Δ A Δᵀ + 2 Δ R` plus a constant. Once the moments are known, no sample is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.quantize.layers import Layer
from edgekd.quantize.operators import LAYERS, aten

ZETA, GAMMA = 1.1, -0.1  # stretch of the rectified sigmoid, equation 23
BETA = (20.0, 2.0)  # annealed: at first only weights near 0 and 1 are drawn to them, later all
LAMBDA = 1.0
STEPS = 500
WARM_UP = 0.2  # share of the steps without the regulariser
RATE = 1e-2
POSITIONS = 65_536  # about this many places of the maps enter the moments


def round_weight(layer: Layer, inputs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Rounds the layer's weight to the multiples of its scales that best reproduce the float output.

    inputs: (x in float, x̃ as the quantized model computes it) for each batch. No channel becomes worse than with rounding
    to nearest. The weight of a transposed convolution is left to rounding to nearest.
    """
    if layer.node.target not in LAYERS:
        return
    weight = layer.weight
    w = weight.detach().reshape(layer.groups, len(weight) // layer.groups, -1)
    scale = layer.quantizer.scale.expand(len(weight)).reshape(layer.groups, -1, 1)
    low, high = layer.quantizer.activation_post_process.quant_min, layer.quantizer.activation_post_process.quant_max
    a, r = moments(layer, w, inputs)

    def rounded(up: Tensor) -> Tensor:
        weights: Tensor = scale * (torch.floor(w / scale) + up).clamp(low, high)
        return weights

    nearest = rounded((w / scale - torch.floor(w / scale)).round())
    with torch.enable_grad():
        up = _optimise(rounded, w, scale, a, r)
    better = error(up - w, a, r) < error(nearest - w, a, r)
    weight.copy_(torch.where(better[..., None], up, nearest).reshape(weight.shape))


def error(delta: Tensor, a: Tensor, r: Tensor) -> Tensor:
    """Δ A Δᵀ + 2 Δ R of each output channel: delta `[groups, outputs, d]`, a `[groups, d, d]`, r `[groups, d, outputs]`."""
    return ((delta @ a) * delta).sum(-1) + 2 * (delta * r.mT).sum(-1)


def moments(layer: Layer, w: Tensor, inputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A `[groups, d, d]` and R `[groups, d, outputs]`, averaged over samples and places."""
    total = sum(len(x) for x, _ in inputs)
    groups, outputs, d = w.shape
    a, r, number = w.new_zeros(groups, d, d), w.new_zeros(groups, d, outputs), 0
    for x, x_q in inputs:
        patches, patches_q = (unfold(layer, value, math.ceil(POSITIONS * len(x) / total)) for value in (x, x_q))
        a = a + patches_q @ patches_q.mT
        r = r + patches_q @ ((patches_q - patches).mT @ w.mT)
        number += patches.shape[2]
    return a / number, r / number


def unfold(layer: Layer, x: Tensor, places: int) -> Tensor:
    """The inputs that each output multiplies, `[groups, d, places]`, at evenly spread places."""
    if layer.node.target is aten.linear.default:
        flat = x.reshape(1, -1, x.shape[-1]).mT
    else:
        columns = _columns(layer, x)
        flat = columns.reshape(len(x), layer.groups, -1, columns.shape[2]).permute(1, 2, 0, 3).flatten(2)
    step = max(1, flat.shape[2] // places) | 1  # odd, so that no column of a map is always skipped
    return flat[:, :, ::step]


def _columns(layer: Layer, x: Tensor) -> Tensor:
    """The input window of each output, `[batch, channels * kernel, places]`. Maps have one, two or three dimensions."""
    kernel = layer.weight.shape[2:]
    axes = range(len(kernel))
    options: Any = tuple(
        layer.node.args[i] if len(layer.node.args) > i else default for i, default in ((3, 1), (4, 0), (5, 1))
    )
    stride, dilation = (_each(options[i], len(kernel)) for i in (0, 2))
    if isinstance(options[1], str):
        reach = [dilation[i] * (kernel[i] - 1) if options[1] == "same" else 0 for i in axes]
        before = [length // 2 for length in reach]
    else:
        before = list(_each(options[1], len(kernel)))
        reach = [2 * length for length in before]
    # From the last axis to the first, as `pad` takes them.
    x = nn.functional.pad(x, [side for i in reversed(axes) for side in (before[i], reach[i] - before[i])])
    for i in axes:
        x = x.unfold(2 + i, dilation[i] * (kernel[i] - 1) + 1, stride[i])[..., :: dilation[i]]
    inner = [2 + len(kernel) + i for i in axes]
    return x.permute(0, 1, *inner, *(2 + i for i in axes)).flatten(2 + len(kernel)).flatten(1, 1 + len(kernel))


def _optimise(rounded: Callable[[Tensor], Tensor], w: Tensor, scale: Tensor, a: Tensor, r: Tensor) -> Tensor:
    fraction = w / scale - torch.floor(w / scale)
    v = nn.Parameter(-torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1))  # h(V) starts at the float weight
    optimizer = torch.optim.Adam([v], RATE)
    nearest = rounded(fraction.round()) - w
    # Scales the cost of rounding to 1 a weight, so that the same λ fits all layers.
    unit = w.numel() / ((nearest @ a) * nearest).sum().clamp_min(1e-30)
    for step in range(STEPS):
        h = (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        loss = unit * error(rounded(h) - w, a, r).sum()
        progress = (step / STEPS - WARM_UP) / (1 - WARM_UP)
        if progress >= 0:
            beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(math.pi * progress))
            loss = loss + LAMBDA * (1 - (2 * h - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return rounded((v.detach() >= 0).float())


def _each(value: int | Sequence[int], axes: int) -> Sequence[int]:
    """A convolution's option for each of its axes. A single number stands for all axes."""
    given = [value] if isinstance(value, int) else list(value)
    return given * axes if len(given) == 1 else given
