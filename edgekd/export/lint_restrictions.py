"""Restrictions of TensorRT's parser on the operators that it lists, as data: attributes, constants, ranks, inputs, outputs."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onnxscript import ir
from pydantic import BaseModel, ConfigDict

from edgekd.export.finding import Finding, LintedModel, array, given, producer, sizes, title
from edgekd.export.lint_runtime import lists_around
from edgekd.target import version

Constant = str | int | float


class Restriction(BaseModel):
    """An entry of tensorrt_restrictions.toml. The file describes the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operators: str
    lists: str
    attribute: str = ""
    takes: tuple[Constant, ...] = ()
    input: int = 0
    constant: bool = False
    below: int | None = None
    ranks: tuple[int, ...] = ()
    fixed: bool = False
    without: tuple[int, ...] = ()
    outputs: int | None = None
    halves: str = ""
    equation: str = ""
    asks: str = ""

    def broken(self, node: ir.Node) -> tuple[str, str, str] | None:
        """The violation as (property of the node, requirement, remedy), or None without a violation."""
        if self.attribute:
            odd = [value for value in _values(node, self.attribute) if value not in self.takes]
            takes = _or(self.takes)
            return (f"{self.attribute} is {odd[0]}", takes, f"export with {self.attribute} = {takes}") if odd else None
        if self.halves:
            values = _values(node, self.halves)
            first, second = values[: len(values) // 2], values[len(values) // 2 :]
            if _values(node, "direction") != ["bidirectional"] or first == second:
                return None
            return f"its directions have other {self.halves}", "the same", "use the same ones in both directions"
        if self.equation:
            found = [
                value for value in _values(node, "equation") if re.search(self.equation, str(value).replace(" ", ""))
            ]
            return (f"its equation is {found[0]}", self.asks, "write it as such, or as products") if found else None
        if self.without:
            extra = [index for index in self.without if given(node, index) is not None]
            return (f"it has input {extra[0]}", "none there", "leave that input out") if extra else None
        if self.outputs is not None:
            read = [value.name for value in node.outputs[self.outputs :] if value.uses() or value.is_graph_output()]
            what = "the first output alone"
            return (
                (f"its output {read[0]} is read", what, "let nothing read it (return_indices = False)")
                if read
                else None
            )
        return self._broken_input(given(node, self.input))

    def _broken_input(self, value: ir.Value | None) -> tuple[str, str, str] | None:
        if value is None:
            return None
        called, shape = f"its input {value.name}", sizes(value)
        if self.constant and not is_fixed(value):
            remedy = "give a number where the model is exported, or the sizes that are free with --shape"
            return f"{called} is computed from the samples or from free sizes", "a constant", remedy
        if self.below is not None and (numbers := array(value)) is not None and numbers.max(initial=0) >= self.below:
            return f"{called} is {numbers.max()}", f"less than {self.below}", "take fewer, in several steps"
        if self.ranks and shape is not None and len(shape) not in self.ranks:
            ranks = _or(self.ranks)
            return f"{called} has rank {len(shape)}", f"rank {ranks}", f"reshape it to rank {ranks}"
        if self.fixed and shape is not None and min(shape, default=0) < 0:
            remedy = "export with fixed sizes, or tell them with --shape"
            return f"{called} has the shape {value.shape}", "fixed sizes", remedy
        return None


@cache
def restrictions() -> tuple[Mapping[str, list[Restriction]], str]:
    """The restrictions of each operator, and their source."""
    document = tomllib.loads((Path(__file__).parent / "tensorrt_restrictions.toml").read_text())
    found: dict[str, list[Restriction]] = defaultdict(list)
    for entry in document["restriction"]:
        restriction = Restriction(**entry)
        for operator in restriction.operators.split():
            found[operator].append(restriction)
    return found, f"{document['source']}, {document['date']}"


def tensorrt_restrictions(subject: LintedModel) -> Iterator[Finding]:
    """The parser of the target's TensorRT refuses a node although it lists the operator."""
    release = subject.target.runtime.version or "10.15"
    below, above = lists_around(release)
    known, _ = restrictions()
    for node in subject.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in below.types | above.types:
            continue
        for restriction in known.get(node.op_type, ()):
            lists = restriction.lists.split()
            newest = max(lists, key=version)
            if version(newest) < version(below.release) or (broken := restriction.broken(node)) is None:
                continue
            has, asked, remedy = broken
            lifted = newest == below.release != above.release  # the next list no longer requires it
            why = f"{has}; TensorRT {release} takes {asked} for {node.op_type} (its lists of {', '.join(lists)})"
            yield Finding("warning" if lifted else "error", "tensorrt_restrictions", title(node), why, remedy)


def is_fixed(value: ir.Value) -> bool:
    """Whether a value is constant, or follows from constants and fixed shapes alone."""
    waiting, visited = [value], {value}
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value.const_value is not None or (node is not None and node.op_type == "Constant"):
            continue
        if node is None:
            return False
        if node.op_type in ("Shape", "Size") or (node.op_type == "Gather" and producer(node.inputs[0], "Shape")):
            read_sizes = _sizes_read(node)
            if read_sizes is None or min(read_sizes, default=0) < 0:
                return False
            continue
        read = [source for source in node.inputs if source is not None]
        if not read:  # a generator of random numbers
            return False
        waiting += [source for source in read if source not in visited]
        visited.update(read)
    return True


def _sizes_read(node: ir.Node) -> tuple[int, ...] | None:
    """The sizes that a Shape, a Size or a Gather behind a Shape returns. None if the shape is unknown.

    A free size is -1.
    """
    if node.op_type == "Gather":
        source, picked = producer(node.inputs[0], "Shape"), array(given(node, 1))
        found = _sizes_read(source) if source is not None else None
        if found is None or picked is None:
            return found
        return tuple(found[index] for index in picked.reshape(-1).tolist() if -len(found) <= index < len(found))
    shape = sizes(node.inputs[0])
    if shape is None or node.op_type == "Size":
        return shape
    return shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(shape))]


def _values(node: ir.Node, name: str) -> list[Any]:
    """An attribute's values, or none if it is left at its default."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.value is None:
        return []
    value = attribute.value
    return list(value) if isinstance(value, list | tuple) else [value]


def _or(values: tuple[object, ...]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
