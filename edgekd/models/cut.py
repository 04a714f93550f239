"""A model cut in two at a layer's output: `before` ends there, `after` begins there."""

from __future__ import annotations

from collections.abc import Container

from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from edgekd.errors import ModelError, nearest


def before(model: nn.Module, path: str) -> GraphModule:
    """From the model's inputs to the output of the module at `path`; what comes later is left out.

    The modules are the model's own under their own names, and so are the weights. There are no hooks, so that
    `torch.export` takes the result. Raises ModelError where torch.fx cannot trace the model, and where the module at
    `path` does not exist or is not called exactly once.
    """
    graph, cut = _traced(model, path)
    part, copied = Graph(), dict[Node, Node]()
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    _copy(graph, _needed(cut) | inputs, part, copied)
    part.output(copied[cut])
    return GraphModule(model, part, "Before")


def after(model: nn.Module, path: str) -> GraphModule:
    """From the output of the module at `path`, its one input, to the model's output: `after(before(x))` is `model(x)`.

    As `before`, and a ModelError too where the output depends on the input by a way around the module, as by a skip.
    """
    graph, cut = _traced(model, path)
    needed = _needed(graph.output_node(), until=cut)
    around = [node.name for node in needed if node.op == "placeholder"]
    if around:
        raise ModelError(
            f"the model cannot be cut at layer '{path}': its output depends on the input '{around[0]}' by a way around "
            "this layer (a skip, for example); choose a layer that everything passes, such as the end of a stage"
        )
    part = Graph()
    _copy(graph, needed - {cut}, part, {cut: part.placeholder("feature")})
    return GraphModule(model, part, "After")


class _CutTracer(Tracer):
    """Leaves the module at `path` whole, so that its output is the value of one node."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.path or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, path: str) -> tuple[Graph, Node]:
    """The model's graph, and its node that calls the module at `path`."""
    possible = [name for name, _ in model.named_modules() if name]
    if path not in possible:
        raise ModelError(f"the model has no layer '{path}'{nearest(path, possible)}")
    try:
        graph = _CutTracer(path).trace(model)
    except Exception as error:  # a user's forward may raise anything on symbolic inputs
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(
            f"the model cannot be cut at layer '{path}', since torch.fx cannot trace it: {type(error).__name__}: {reason}"
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == path]
    if len(calls) != 1:
        raise ModelError(
            f"layer '{path}' is called {len(calls)} times in a forward pass, so that its output is no one place to cut "
            "the model; choose a layer that is called once"
        )
    return graph, calls[0]


def _needed(last: Node, until: Node | None = None) -> set[Node]:
    """The nodes that `last` is computed from, itself too, without what `until` is computed from."""
    found: set[Node] = set()
    ahead = [last]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(node.all_input_nodes if node is not until else ())
    return found


def _copy(graph: Graph, nodes: Container[Node], part: Graph, copied: dict[Node, Node]) -> None:
    """Copy `nodes` to `part` in their order; `copied` holds what stands for each."""
    for node in graph.nodes:
        if node in nodes:
            copied[node] = part.node_copy(node, copied.__getitem__)
