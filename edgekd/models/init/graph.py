"""traced: a model's operations by torch.fx; check_same: compares the operations of two models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import nn
from torch.fx import Graph, Node, Tracer

from edgekd.errors import ModelError

# The settings in which two layers must agree, besides their weights, to compute the same.
SETTINGS = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "eps", "negative_slope", "output_size")


class Operation(NamedTuple):
    """The operation of a node: a module's class, path and settings, or a function's name.

    inputs: the numbers of the nodes that the operation reads.
    """

    kind: str
    name: str = ""
    settings: str = ""
    inputs: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" if self.name else self.kind


class _Tracer(Tracer):
    """Traces into every module of the user, except the modules at the paths `whole`."""

    def __init__(self, whole: Collection[str]) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.whole or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module, role: str, whole: Collection[str] = ()) -> Graph:
    """The model's graph; modules at the paths `whole` stay single nodes.

    Raises ModelError if torch.fx cannot trace the model.
    """
    try:
        return _Tracer(whole).trace(model)
    except Exception as error:  # a user's forward may raise anything
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(
            f"the {role} cannot be traced by torch.fx ({type(error).__name__}: {reason}); its forward must not branch "
            "on values; copy_layers needs no trace"
        ) from error


def described(node: Node) -> str:
    """The name of a node in error messages: its operation, and the module that calls it."""
    if node.op in ("call_module", "get_attr"):
        return f"'{node.target}'"
    inside = next(reversed(node.meta.get("nn_module_stack") or {}), "")
    return f"{_name(node)} in '{inside}'" if inside else _name(node)


def check_same(ours: Graph, own: nn.Module, theirs: Graph, other: nn.Module, roles: tuple[str, str]) -> None:
    """Raise ModelError for the first operation in which two graphs differ; widths may differ."""
    first = _operations(ours, dict(own.named_modules()))
    second = _operations(theirs, dict(other.named_modules()))
    for a, b in zip(first, second, strict=False):
        if a != b:
            what = f"where the {roles[0]} has {a}, the {roles[1]} has {b}"
            if str(a) == str(b):
                what = f"{a} has {a.settings} and {b.settings}" if a.settings != b.settings else f"{a} reads others"
            raise ModelError(f"the {roles[0]} and the {roles[1]} differ in more than weights: {what}")
    if len(first) != len(second):
        more, where = (first, roles[0]) if len(first) > len(second) else (second, roles[1])
        raise ModelError(f"only the {where} has {more[min(len(first), len(second))]}")


def _operations(graph: Graph, modules: Mapping[str, nn.Module]) -> list[Operation]:
    numbers: dict[Node, int] = {}
    operations = []
    for node in graph.nodes:
        inputs = tuple(numbers[read] for read in node.all_input_nodes)
        numbers[node] = len(numbers)
        if node.op == "call_module":
            module = modules[str(node.target)]
            settings = ", ".join(f"{name} {getattr(module, name)}" for name in SETTINGS if hasattr(module, name))
            operations.append(Operation(type(module).__name__, str(node.target), settings, inputs))
        else:
            kind = node.op if node.op in ("placeholder", "output") else _name(node)
            operations.append(Operation(kind, inputs=inputs))
    return operations


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
