"""Groups of channels that belong together: `channels_of` finds them by torch.fx, `rewire` picks channels of them.

A group is a set of channels that several layers write or read by the same numbers. It holds a convolution's outputs, the
BatchNorm that follows, the inputs of the next layer, and everything added to them (a residual stream is one group). A
concatenation is a sequence of groups. Channels are dropped or repeated in a whole group, for all its layers at once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional as F

from edgekd.errors import ModelError
from edgekd.models.init.graph import described, traced

# Operations whose output channel depends only on the same input channel.
CHANNEL_WISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
CHANNEL_WISE_FUNCTIONS = frozenset({
    torch.relu, torch.sigmoid, torch.tanh, F.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.gelu, F.mish, F.softplus,
    F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid, F.hardtanh, F.dropout, F.dropout2d, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
})  # fmt: skip
CHANNEL_WISE_METHODS = frozenset({"relu", "relu_", "sigmoid", "tanh", "contiguous", "clone"})
MEETS = frozenset({operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.mul})
MEETS_METHODS = frozenset({"add", "add_", "sub", "mul", "mul_"})
SUPPORTED = (
    "supported are Conv2d (plain and depthwise), Linear, BatchNorm, activations, dropout, pooling, flatten, mean over "
    "the image, add, multiply, concatenation of channels"
)


@dataclass(frozen=True)
class Flow:
    """The groups that a layer reads, in order, and the group that it writes. depthwise: both are the same group."""

    reads: tuple[int, ...]
    writes: int | None = None
    depthwise: bool = False


@dataclass(frozen=True)
class Channels:
    """A model's groups: the flow of each layer with weights by module path, and each group's width.

    Groups are numbered in the order in which layers use them, so that models of the same operations have the same numbers.
    `fixed`: the groups that cannot change, which are the image's channels and the outputs.
    """

    layers: Mapping[str, Flow]
    widths: Mapping[int, int]
    fixed: frozenset[int]


class _Value(NamedTuple):
    """A tensor's groups in order. flattened: each channel has become as many columns as it had pixels."""

    groups: tuple[int, ...]
    flattened: bool = False


@dataclass
class _Groups:
    """Union-find over groups. A width of 0 means that the width is not known yet."""

    widths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def new(self, width: int) -> int:
        self.widths.append(width)
        self.parents.append(len(self.parents))
        return self.parents[-1]

    def root(self, group: int) -> int:
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def width(self, value: _Value) -> int:
        return sum(self.widths[self.root(group)] for group in value.groups)

    def join(self, a: _Value, b: _Value, where: str) -> None:
        """Merge the groups of `a` with those of `b`."""
        ours, theirs = ([self.root(group) for group in value.groups] for value in (a, b))
        known = [self.widths[group] for group in ours], [self.widths[group] for group in theirs]
        if len(ours) != len(theirs) or any(x != y for x, y in zip(*known, strict=True) if x and y):
            raise ModelError(
                f"{where} brings together channels of the widths {known[0]} and {known[1]}; channels cannot be chosen "
                "across a broadcast or different concatenations"
            )
        for x, y in zip(ours, theirs, strict=True):
            low, high = sorted((self.root(x), self.root(y)))
            self.widths[low] = self.widths[low] or self.widths[high]
            self.parents[high] = low

    def expect(self, value: _Value, width: int, where: str) -> None:
        """Require that the value has `width` channels. A group of unknown width gets this width."""
        if len(value.groups) == 1 and not self.widths[self.root(value.groups[0])]:
            self.widths[self.root(value.groups[0])] = width
        if self.width(value) != width:
            raise ModelError(f"{where} takes {width} channels where {self.width(value)} arrive; {SUPPORTED}")


def channels_of(model: nn.Module, role: str, graph: Graph | None = None) -> Channels:
    """The model's channel groups. role: the model's name in errors.

    Raises ModelError if torch.fx cannot trace the model, and for an operation that mixes or moves channels in an
    unsupported way.
    """
    modules = dict(model.named_modules())
    groups = _Groups()
    values: dict[Node, _Value | None] = {}
    layers: dict[str, tuple[_Value, _Value | None, bool]] = {}
    fixed: list[int] = []
    for node in (graph or traced(model, role)).nodes:
        if node.op == "placeholder":
            image = groups.new(0)
            values[node] = _Value((image,))
            fixed.append(image)
        elif node.op == "output":
            fixed += [group for read in node.all_input_nodes for group in _known(values, read, role).groups]
        elif node.op == "call_module" and not isinstance(modules[str(node.target)], CHANNEL_WISE):
            values[node] = _through_module(node, modules[str(node.target)], values, groups, layers, role)
        else:
            values[node] = _through_function(node, values, groups, role)
    numbers: dict[int, int] = {}

    def number(group: int) -> int:
        return numbers.setdefault(groups.root(group), len(numbers))

    flows = {
        name: Flow(tuple(map(number, read.groups)), number(written.groups[0]) if written else None, depthwise)
        for name, (read, written, depthwise) in layers.items()
    }
    return Channels(
        flows, {value: groups.widths[root] for root, value in numbers.items()}, frozenset(map(number, fixed))
    )


def _known(values: Mapping[Node, _Value | None], node: Any, role: str) -> _Value:
    value = values.get(node) if isinstance(node, Node) else None
    if value is None:
        raise ModelError(f"{role}: {described(node) if isinstance(node, Node) else node} is not supported; {SUPPORTED}")
    return value


def _through_module(
    node: Node, module: nn.Module, values: Mapping[Node, _Value | None], groups: _Groups,
    layers: dict[str, tuple[_Value, _Value | None, bool]], role: str,
) -> _Value:  # fmt: skip
    name = str(node.target)
    where = f"{role}: {type(module).__name__} '{name}'"
    read = _known(values, node.args[0] if node.args else None, role)
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ModelError(f"{where} is not supported unless it keeps the batch and flattens the rest")
        return read._replace(flattened=True)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        groups.expect(read, module.num_features, where)
        written, depthwise = None, False
    elif isinstance(module, nn.Conv2d):
        groups.expect(read, module.in_channels, where)
        depthwise = module.groups > 1
        if depthwise and not module.groups == module.in_channels == module.out_channels:
            raise ModelError(f"{where} with groups={module.groups} is not supported; {SUPPORTED}")
        written = read if depthwise else _Value((groups.new(module.out_channels),))
        if depthwise and len(read.groups) != 1:
            raise ModelError(f"{where}, depthwise over a concatenation, is not supported")
    elif isinstance(module, nn.Linear):
        if not read.flattened:
            groups.expect(read, module.in_features, where)
        elif not groups.width(read) or module.in_features % groups.width(read):
            raise ModelError(
                f"{where} takes {module.in_features} columns, no multiple of {groups.width(read)} channels"
            )
        written, depthwise = _Value((groups.new(module.out_features),)), False
    else:
        raise ModelError(f"{where} is not supported; {SUPPORTED}")
    if name in layers:
        groups.join(read, layers[name][0], f"{where}, used more than once,")
        if written is not None:
            groups.join(written, layers[name][1] or written, where)
    layers[name] = (read, written, depthwise)
    return written or read


def _through_function(node: Node, values: Mapping[Node, _Value | None], groups: _Groups, role: str) -> _Value | None:
    where = f"{role}: {described(node)}"
    target: Any = node.target
    first = node.args[0] if node.args else None
    if node.op == "get_attr":
        raise ModelError(f"{where}, weights outside a layer, is not supported; {SUPPORTED}")
    if node.op == "call_module" or target in CHANNEL_WISE_FUNCTIONS or target in CHANNEL_WISE_METHODS:
        return _known(values, first, role)
    if target in MEETS or target in MEETS_METHODS:
        operands = [_known(values, operand, role) for operand in node.all_input_nodes]
        for other in operands[1:]:
            if other.flattened != operands[0].flattened:
                raise ModelError(f"{where} brings together a flattened and an unflattened image; {SUPPORTED}")
            groups.join(operands[0], other, where)
        return operands[0]
    options: dict[Any, Any] = {**dict(enumerate(node.args)), **node.kwargs}
    if target in (torch.cat, torch.concat, torch.concatenate):
        parts = [_known(values, part, role) for part in node.all_input_nodes]
        if options.get(1, options.get("dim", options.get("axis"))) != 1 or any(part.flattened for part in parts):
            raise ModelError(f"{where} is not supported unless it joins the channels of images (dim=1)")
        if any(not groups.width(part) for part in parts):
            raise ModelError(f"{where} joins the image itself, whose channels no layer has told; {SUPPORTED}")
        return _Value(tuple(group for part in parts for group in part.groups))
    if target in (torch.flatten, "flatten"):
        if options.get(1, options.get("start_dim")) == 1 and options.get(2, options.get("end_dim", -1)) == -1:
            return _known(values, first, role)._replace(flattened=True)
    elif target in ("view", "reshape", torch.reshape):
        shape = node.args[1:] if len(node.args) != 2 else node.args[1]
        if isinstance(shape, tuple | list) and len(shape) == 2 and shape[1] == -1:
            return _known(values, first, role)._replace(flattened=True)
    elif target in ("mean", torch.mean):
        axes = options.get(1, options.get("dim"))
        if isinstance(axes, tuple | list) and {axis % 4 for axis in axes if isinstance(axis, int)} == {2, 3}:
            return _known(values, first, role)
    elif target in ("size", getattr, operator.getitem):
        return None  # a shape, which `view` may read; a use as a tensor is refused later
    raise ModelError(f"{where} is not supported; {SUPPORTED}")


def rewire(
    target: nn.Module, source: nn.Module, channels: Channels, picks: Mapping[int, Tensor], *, divide: bool = False
) -> None:
    """Fill the target's layers from the source's: channel i of group g is the source's channel `picks[g][i]`.

    channels: the source's; picks: for each group int64 `[channels of the target]`. With `divide` a weight is divided by the
    number of copies of its input channel, so that copies add up to the original. Raises ModelError if the picked weights
    do not have the target's shape.
    """
    ours, theirs = dict(target.named_modules()), dict(source.named_modules())
    filled: list[tuple[Tensor, Tensor]] = []
    for name, flow in channels.layers.items():
        picked = _picked(theirs[name], flow, channels.widths, picks, divide)
        own = ours[name].state_dict()
        if one_sided := sorted(own.keys() ^ picked.keys()):
            raise ModelError(f"only one of the two models has '{name}.{one_sided[0]}'")
        for key, value in picked.items():
            if own[key].shape != value.shape:
                raise ModelError(
                    f"'{name}.{key}' is {list(own[key].shape)}; from the other model's {list(theirs[name].state_dict()[key].shape)} "
                    f"{list(value.shape)} can be made"
                )
            filled.append((own[key], value))
    with torch.no_grad():
        for destination, value in filled:
            destination.copy_(value)


def _picked(
    layer: nn.Module, flow: Flow, widths: Mapping[int, int], picks: Mapping[int, Tensor], divide: bool
) -> dict[str, Tensor]:
    """The layer's state dict, reduced to the picked channels."""
    state: dict[str, Tensor] = layer.state_dict()
    starts = [sum(widths[group] for group in flow.reads[:i]) for i in range(len(flow.reads))]
    inputs = torch.cat([start + picks[group] for start, group in zip(starts, flow.reads, strict=True)])
    counts = torch.cat([torch.bincount(picks[group], minlength=widths[group])[picks[group]] for group in flow.reads])
    if flow.writes is None or flow.depthwise:
        return {key: value if value.ndim == 0 else value[inputs] for key, value in state.items()}
    columns = state["weight"].shape[1] // sum(widths[group] for group in flow.reads)
    read = (inputs[:, None] * columns + torch.arange(columns)).flatten()
    weight = state["weight"][picks[flow.writes]][:, read]
    if divide:
        weight = weight / counts.repeat_interleave(columns).view(1, -1, *[1] * (weight.ndim - 2)).to(weight)
    return {key: weight if key == "weight" else value[picks[flow.writes]] for key, value in state.items()}
