"""wider, deeper: growth that keeps a network's function (Net2Net, Chen, Goodfellow & Shlens 2016, 1511.05641)."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional as F

from edgekd.errors import ModelError, nearest
from edgekd.models.init.channels import channels_of, rewire
from edgekd.models.init.graph import check_same, traced
from edgekd.models.init.slice import written_by
from edgekd.models.weights import load_weights

RECTIFIED = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid)  # never negative
KEEPS_SIGN = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # fmt: skip
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
RECTIFYING = (torch.relu, F.relu, F.relu6, torch.sigmoid, "relu", "relu_", "sigmoid")
IDENTITIES = (
    "can be: a convolution or Linear that keeps the shape, BatchNorm, ReLU after ReLU, dropout, a Sequential of such, "
    "and a residual block without a layer on its skip"
)


def wider(small: nn.Module, large: nn.Module, *, seed: int = 0, noise: float = 0.0) -> None:
    """Net2WiderNet (section 2.3): fills a wider model so that it computes the function of the small model.

    In each channel group the first channels are the small model's; the others are copies of channels that `seed` draws.
    Layers that read the copies divide by their number. Copies with equal weights learn equally, so `noise` is added to each
    copied weight. It is a standard deviation relative to the layer's weights: 0 keeps the function exactly, the paper adds
    a little.

    Raises ModelError if the operations of the two models differ, if the large model is thinner, and for an unsupported
    operation.
    """
    ours, theirs = traced(large, "large model"), traced(small, "small model")
    check_same(ours, large, theirs, small, ("large model", "small model"))
    wide, thin = channels_of(large, "large model", ours), channels_of(small, "small model", theirs)
    generator = torch.Generator().manual_seed(seed)
    picks: dict[int, Tensor] = {}
    for group, width in thin.widths.items():
        grown = wide.widths[group]
        if grown < width or (group in thin.fixed and grown != width):
            raise ModelError(
                f"the large model has {grown} channels in {written_by(thin, group)}, the small one {width}; "
                + (
                    "inputs and outputs must be as many"
                    if group in thin.fixed
                    else "a thinner one is made by slice_weights"
                )
            )
        picks[group] = torch.cat([torch.arange(width), torch.randint(width, (grown - width,), generator=generator)])
    rewire(large, small, thin, picks, divide=True)
    if noise:
        modules = dict(large.named_modules())
        for name, flow in thin.layers.items():
            if flow.writes is not None:
                copies = modules[name].get_parameter("weight").data[thin.widths[flow.writes] :]
                drawn = torch.randn(copies.shape, generator=generator).to(copies)
                copies += noise * modules[name].get_parameter("weight").std() * drawn


def deeper(small: nn.Module, large: nn.Module) -> None:
    """Net2DeeperNet (section 2.4): fills a deeper model, whose new layers become identities; the others are copied.

    Layers are matched by path. A new convolution becomes a Dirac kernel, a new Linear the unit matrix. A new BatchNorm
    becomes the identity for its running statistics, so in eval mode only. A new residual block keeps its weights, except
    the last layer of its branch, which is set to zero. Call this before the optimizer is made.

    Raises ModelError for a layer of the small model that the large model lacks, and if the other layers differ. A new layer
    must be able to be an identity, or ModelError is raised: a block that ends in ReLU must not read negative values.
    """
    smaller, larger = dict(small.named_modules()), dict(large.named_modules())
    for name in smaller:
        if name not in larger:
            raise ModelError(f"the large model has no layer '{name}' of the small one{nearest(name, larger)}")
    new = _new_layers(smaller, larger)
    graph = traced(large, "large model", new)
    for name in new:
        signed, rectified = _make_identity(larger[name], name)
        for node in [node for node in graph.nodes if node.op == "call_module" and node.target == name]:
            if len(node.all_input_nodes) != 1:
                raise ModelError(f"'{name}' is new and takes {len(node.all_input_nodes)} inputs; one is possible")
            if not signed and not (rectified and _is_rectified(node.all_input_nodes[0], larger, new)):
                raise ModelError(
                    f"'{name}' is new and no identity"
                    + (" where its input may be negative, as here" if rectified else f"; {IDENTITIES}")
                )
    _leave_out(graph, new)
    check_same(graph, large, traced(small, "small model"), small, ("large model", "small model"))
    load_weights(large, large.state_dict() | small.state_dict(), "the small model")


def _new_layers(smaller: dict[str, nn.Module], larger: dict[str, nn.Module]) -> list[str]:
    """The outermost modules of the large model that the small model lacks; a list counts by its children."""
    new: list[str] = []
    for name, module in larger.items():
        inside = any(name.startswith(f"{outer}.") for outer in new)
        if name not in smaller and not inside and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            new.append(name)
    return new


def _leave_out(graph: Graph, layers: list[str]) -> None:
    """Remove the calls of `layers` from the graph: the nodes after them read the layers' inputs."""
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target in layers:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _is_rectified(node: Node, modules: dict[str, nn.Module], new: list[str]) -> bool:
    """Whether the tensor of a node is never negative. New layers count as identities."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        through = node.target in new or isinstance(module, KEEPS_SIGN)
        return isinstance(module, RECTIFIED) or (through and _is_rectified(node.all_input_nodes[0], modules, new))
    if node.target in RECTIFYING:
        return True
    of_tensors = node.target in ADDITIONS and all(isinstance(operand, Node) for operand in node.args)
    through = of_tensors or node.target in (torch.cat, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
    return through and all(_is_rectified(read, modules, new) for read in node.all_input_nodes)


def _make_identity(layer: nn.Module, name: str) -> tuple[bool, bool]:
    """Set a layer's weights to the identity. Returns whether it now is one: for all inputs, for inputs >= 0."""
    with torch.no_grad():
        _set_identity(layer, name)
    modes = [(module, module.training) for module in layer.modules()]
    layer.eval()
    probe = _probe(layer)
    with torch.no_grad():
        found = tuple(_keeps(layer, values) for values in (probe, probe.abs()))
    for module, training in modes:
        module.training = training
    return found[0], found[1]


def _set_identity(layer: nn.Module, name: str) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.dirac_(layer.weight, layer.groups)
    elif isinstance(layer, nn.Linear):
        nn.init.eye_(layer.weight)
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
        layer.reset_running_stats()
        if layer.affine:
            layer.weight.fill_((1 + layer.eps) ** 0.5)
    elif isinstance(layer, nn.Sequential):
        for path, child in layer.named_children():
            _set_identity(child, f"{name}.{path}")
        return
    elif next(layer.parameters(), None) is not None:
        _silence(layer, name)
        return
    if isinstance(bias := getattr(layer, "bias", None), Tensor):
        bias.zero_()


def _silence(block: nn.Module, name: str) -> None:
    """Zero the last layer of each branch that a residual block adds to its skip."""
    modules = dict(block.named_modules())
    for node in traced(block, f"new layer '{name}'").nodes:
        ends = [_last_layer(read, modules) for read in node.all_input_nodes] if node.target in ADDITIONS else []
        with_weights = [end for end in ends if end is not None]
        if len(with_weights) == 1:
            for parameter in with_weights[0].parameters():
                parameter.zero_()


def _last_layer(node: Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The layer with weights that ends a branch; None if the branch is the input itself."""
    while node.op == "call_module":
        module = modules[str(node.target)]
        if next(module.parameters(), None) is not None:
            return module
        node = node.all_input_nodes[0]
    return None


def _probe(layer: nn.Module) -> Tensor:
    """Random values of both signs, in the shape that the layer's first weights take."""
    generator = torch.Generator().manual_seed(0)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            channels = module.in_channels if isinstance(module, nn.Conv2d) else module.num_features
            return 3 * torch.randn(2, channels, 9, 9, generator=generator).to(next(module.parameters()).device)
        if isinstance(module, nn.Linear | nn.BatchNorm1d):
            width = module.in_features if isinstance(module, nn.Linear) else module.num_features
            return 3 * torch.randn(2, width, generator=generator).to(next(module.parameters()).device)
    return 3 * torch.randn(2, 8, 9, 9, generator=generator)


def _keeps(layer: nn.Module, values: Tensor) -> bool:
    try:
        out = layer(values)
    except Exception:  # a user's forward may raise any error: then the layer is no identity
        return False
    return isinstance(out, Tensor) and out.shape == values.shape and torch.allclose(out, values, rtol=1e-5, atol=1e-5)
