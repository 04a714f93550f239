"""capture: a model as a functional ATen graph whose BatchNorms are part of the convolutions before them."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from edgekd.export.trace import quiet_torch, trace

aten = torch.ops.aten

# operator -> the axis of its weight that holds output channels
CONVOLUTIONS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.default: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.default: 0,
    aten.conv3d.padding: 0,
}
LAYERS = (*CONVOLUTIONS, aten.linear.default)
"""What has a weight, output channels first, and may have a bias as its third argument."""
TRANSPOSED: dict[Any, int] = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 1}


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], *, trainable: bool) -> GraphModule:
    """A copy of `model` in evaluation mode as ATen operators, with a dynamic batch.

    BatchNorm after a convolution or a linear layer becomes a scale of its weight and a shift of its bias, with the
    running statistics: what the quantizer sees is the weight that ships. With `trainable` scale and shift stay
    expressions of BatchNorm's parameters, which go on learning; its statistics are frozen. Otherwise they are folded.

    Raises ExportError where the model cannot be traced.
    """
    was_training = {module: module.training for module in model.modules()}
    try:
        # A deep copy: the graph shares its parameters with the module that it was traced from.
        frozen = copy.deepcopy(model).eval()
    finally:
        for module, training in was_training.items():
            module.training = training
    program = trace(frozen, example_inputs)
    with quiet_torch():
        graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, GraphModule)
    _make_functional(graph_module.graph)
    _drop_no_ops(graph_module.graph)
    _absorb_batch_norms(graph_module, trainable)
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def spell_out_silu(module: GraphModule) -> None:
    """`silu(x)` as `x * sigmoid(x)`, for targets that have integer kernels of these two and none of their product."""
    for node in list(module.graph.nodes):
        if node.target is aten.silu.default:
            with module.graph.inserting_before(node):
                gate = _call(node, aten.sigmoid.default, (node.args[0],))
            node.target, node.args = aten.mul.Tensor, (node.args[0], gate)


def flatten_linears(module: GraphModule) -> None:
    """Linear layers on matrices: the first dimensions of a longer input are made one, and come back after the layer."""
    flat: dict[Node, Node] = {}  # one for all layers that read it: the exporter would merge equal ones
    for node in list(module.graph.nodes):
        if node.target is not aten.linear.default or node.args[0].meta["val"].dim() == 2:
            continue
        *outer, features = node.meta["val"].shape
        x = node.args[0]
        with module.graph.inserting_before(node):
            if x not in flat:
                flat[x] = _call(node, aten.reshape.default, (x, [-1, x.meta["val"].shape[-1]]))
            linear = _call(node, aten.linear.default, (flat[x], *node.args[1:]))
        node.target, node.args = aten.reshape.default, (linear, [-1, *outer[1:], features])


def split_means(module: GraphModule) -> None:
    """A mean over height and width that drops them as a pool that keeps them, which has an integer kernel, and a reshape."""
    for node in list(module.graph.nodes):
        if not is_spatial_mean(node) or node.args[2:3] == (True,):
            continue
        with module.graph.inserting_before(node):
            pooled = _call(node, aten.mean.dim, (node.args[0], [2, 3], True))
        node.target, node.args, node.kwargs = aten.flatten.using_ints, (pooled, 1), {}


def is_spatial_mean(node: Node) -> bool:
    """Whether a mean is an average pool: over height and width of `[batch, C, H, W]`."""
    if node.target is not aten.mean.dim:
        return False
    x, axes = node.args[:2]
    assert isinstance(x, Node) and isinstance(axes, Sequence)
    return x.meta["val"].dim() == 4 and {axis % 4 for axis in axes} == {2, 3}  # type: ignore[operator]


def _call(like: Node, operator: Any, arguments: tuple[Any, ...]) -> Node:
    """A new operator, of the same module as `like`, with the shape that it gives."""
    node = like.graph.call_function(operator, arguments)
    values = [a.meta["val"] if isinstance(a, Node) else a for a in arguments]
    node.meta = {**like.meta, "val": operator(*values)}
    return node


def is_constant(node: Node) -> bool:
    """Whether the value depends on parameters and buffers only."""
    pending, seen = [node], set()
    while pending:  # a chain as long as the model: no recursion
        node = pending.pop()
        if node.op == "get_attr" or node in seen:
            continue
        if node.op not in ("call_function", "call_module") or not node.all_input_nodes:
            return False
        seen.add(node)
        pending.extend(node.all_input_nodes)
    return True


def constant_name(node: Node) -> str:
    """The parameter that a constant expression starts from, e.g. `layer1.0.conv1.weight`."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return str(node.target)


def _make_functional(graph: Graph) -> None:
    """Replaces `relu_(x)` by `relu(x)`, and later readers of x by readers of its result.

    Otherwise a quantizer between the two would be written over. An operator that has no functional twin stays.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema = node.target._schema
        if not schema.name.endswith("_") or not schema.is_mutable:
            continue
        packet = getattr(aten, schema.name.removeprefix("aten::").removesuffix("_"), None)
        overload = node.target._overloadname
        if packet is None or overload not in packet.overloads():
            continue
        written = node.args[0]
        node.target = getattr(packet, overload)
        assert isinstance(written, Node)
        for reader in list(written.users):
            if order[reader] > order[node]:
                reader.replace_input_with(written, node)


def _drop_no_ops(graph: Graph) -> None:
    """Without what the exported graph has not either: a site on a copy would be a second one on the same values."""
    for node in list(graph.nodes):
        copies = node.target in (aten.contiguous.default, aten.clone.default)
        if copies or (node.target is aten.dropout.default and node.args[1] == 0):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _absorb_batch_norms(module: GraphModule, trainable: bool) -> None:
    for bn in list(module.graph.nodes):
        if bn.target is not aten.batch_norm.default:
            continue
        layer = bn.args[0]
        axis = {**CONVOLUTIONS, **TRANSPOSED, aten.linear.default: 0}.get(layer.target)
        shared = axis is not None and len(layer.args[1].users) > 1
        groups = layer.args[6] if layer.target in TRANSPOSED and len(layer.args) > 6 else 1
        if axis is None or len(layer.users) > 1 or groups != 1 or not is_constant(layer.args[1]) or shared:
            continue
        _, gamma, beta, mean, variance, _, _, eps, *_ = bn.args
        weight, bias = layer.args[1], (layer.args[2] if len(layer.args) > 2 else None)
        shape = [1] * layer.args[1].meta["val"].dim()
        shape[axis] = -1
        with module.graph.inserting_before(layer):
            call = module.graph.call_function
            scale = call(aten.rsqrt.default, (call(aten.add.Tensor, (variance, eps)),))
            if gamma is not None:
                scale = call(aten.mul.Tensor, (scale, gamma))
            shift = call(aten.neg.default, (mean,)) if bias is None else call(aten.sub.Tensor, (bias, mean))
            shift = call(aten.mul.Tensor, (shift, scale))
            if beta is not None:
                shift = call(aten.add.Tensor, (shift, beta))
            scaled = call(aten.mul.Tensor, (weight, call(aten.reshape.default, (scale, shape))))
        layer.args = (layer.args[0], scaled, shift, *layer.args[3:])
        bn.replace_all_uses_with(layer)
        module.graph.erase_node(bn)
        if not trainable:
            fold_constant(module, scaled, str(weight.target))
            fold_constant(module, shift, str(weight.target).removesuffix("weight") + "bias")


def evaluate(module: GraphModule, node: Node) -> Tensor:
    """The value of a constant expression."""

    def value(of: Any) -> Any:
        if not isinstance(of, Node):
            return of
        if of.op == "get_attr":
            return operator.attrgetter(str(of.target))(module)
        assert callable(of.target)
        return of.target(*[value(argument) for argument in of.args])

    result: Tensor = value(node)
    return result


def fold_constant(module: GraphModule, node: Node, name: str) -> None:
    """Computes a constant expression now and stores it as the parameter `name`, in place of what had that name."""
    with torch.no_grad():
        folded = nn.Parameter(evaluate(module, node).detach().clone())
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    owner.register_parameter(leaf, folded)
    with module.graph.inserting_before(node):
        attribute = module.graph.get_attr(name)
    attribute.meta["val"] = folded.detach()
    node.replace_all_uses_with(attribute)
    module.graph.eliminate_dead_code()
