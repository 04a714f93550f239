"""before, after: the two parts of a model that is cut at a layer's output."""

from __future__ import annotations

from collections.abc import Container

from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from edgekd.errors import ModelError, nearest
from edgekd.models.branches import fold_of


def before(model: nn.Module, path: str) -> GraphModule:
    """The part of a model from its inputs to the output of the module at `path`.

    Modules and weights are the model's own, under their own names. The result has no hooks, so that `torch.export` takes
    it. Raises ModelError if torch.fx cannot trace the model. The module at `path` must exist and be called exactly once,
    or ModelError is raised too.
    """
    graph, cut = _traced(model, path)
    part, copied = Graph(), dict[Node, Node]()
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    _copy(graph, _needed(cut) | inputs, part, copied)
    part.output(copied[cut])
    return GraphModule(model, part, "Before")


def after(model: nn.Module, path: str) -> GraphModule:
    """The part of a model from the output of the module at `path` to the model's output.

    `after(before(x))` is `model(x)`. Raises ModelError as `before` does, and if the output also depends on the input by a
    path around the module, for example a skip.
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
    """Traces without entering the module at `path`, so that the module's output is the value of one node.

    Modules that fold their branches stay whole too, because their method would be lost in a graph of the branches.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        folds = fold_of(m) is not None and not self.path.startswith(f"{module_qualified_name}.")
        return folds or module_qualified_name == self.path or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, path: str) -> tuple[Graph, Node]:
    """The model's graph, and the node that calls the module at `path`."""
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
    """The node `last` and all nodes that it depends on. The search stops at `until`."""
    found: set[Node] = set()
    ahead = [last]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(node.all_input_nodes if node is not until else ())
    return found


def _copy(graph: Graph, nodes: Container[Node], part: Graph, copied: dict[Node, Node]) -> None:
    """Copy `nodes` to `part` in their order. `copied`: node -> its copy."""
    for node in graph.nodes:
        if node in nodes:
            copied[node] = part.node_copy(node, copied.__getitem__)
