"""check_same: checks on samples, before quantizers are inserted, that the captured graph computes the model's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from edgekd.errors import QuantizationError
from edgekd.models.trace import Free, resized, sizes_of
from edgekd.quantize.operators import aten

TOLERANCE = 1e-3
"""Root mean square of a difference over that of the answer. Folding and reordered sums stay near 1e-6."""
ROWS = 3  # another batch size than that of the trace, and small enough to be cheap

MASKED = "masked"  # in a node's meta
HUGE, GAP = 1000.0, 50.0

Inputs = tuple[Tensor, ...]


def samples_of(example_inputs: Inputs) -> Inputs:
    """Three samples of each input, with noise in place of samples that carry no signal: zeros would hide errors.

    An integer mask of ones (or True) hides nothing. It is changed to hide the second half of the second sample.
    """
    generator = torch.Generator().manual_seed(0)

    def rows(x: Tensor) -> Tensor:
        few = torch.cat([x[:ROWS]] * ROWS)[:ROWS].detach().clone()
        if not few.is_floating_point():
            if few.dim() > 1 and bool((few == 1).all()):
                few[1, ..., few.shape[-1] // 2 + 1 :] = 0  # a mask of a single place stays as it is
        elif bool((few == few.flatten()[0]).all()):
            few = few + torch.randn(few.shape, generator=generator, dtype=few.dtype).to(few.device)
        else:  # no row repeats another
            for row in range(len(x[:ROWS]), ROWS):
                few[row] = few[row].flip(-1)
        return few

    return tuple(rows(x) for x in example_inputs)


def at_other_sizes(samples: Inputs, free: Free) -> list[Inputs]:
    """The samples with each free size at its least, and with all free sizes longer.

    A longer size is about twice the size of the samples, or the size's bound.
    """
    given = {size.name: number for size, number in sizes_of(samples, free).items()}
    least = {size.name: size.at_least for size in sizes_of(samples, free)}
    longer = {  # each size grows by another number, so that a graph that confuses two sizes fails
        size.name: min(2 * number + 1 + index, size.at_most or 2 * number + 1 + index)
        for index, (size, number) in enumerate(sizes_of(samples, free).items())
    }
    return [resized(samples, free, sizes) for sizes in (least, longer) if sizes != given]


def check_same(model: nn.Module, graph: GraphModule, samples: Inputs, *, trained: bool, free: Free = ()) -> None:
    """Compares the graph with the model on one sample and on several; with `trained` also in training mode.

    With `free` sizes (edgekd.models.trace) samples of other sizes are compared as well. Model and graph are left unchanged,
    except that nodes whose values contain a mask are marked (`MASKED`). In training mode, batch norms that no layer
    absorbed use the statistics of their batch; dropout stays off in both.

    Raises QuantizationError naming the layer where a difference begins. Raises it also if the model answers at random,
    mixes the samples of a batch, or fails at a size within its bounds.
    """
    one = tuple(x[:1] for x in samples)
    with as_it_was(model), as_it_was(graph), torch.no_grad():
        model.eval()
        expected = check_answers(model, samples)
        _compare(model, graph, samples, expected, "in evaluation", run=_Marking(graph).run)
        _compare(model, graph, one, [answer[:1] for answer in expected], "in evaluation")
        for other in at_other_sizes(samples, free):
            at = _sizes_told(other, free)
            _compare(
                model, graph, other, _answers_at(model, other, at), "in evaluation", run=_Marking(graph).run, at=at
            )
        left = [node for node in graph.graph.nodes if node.target is aten.batch_norm.default]
        if trained and left:
            with _normalised_by_batch(model, graph, left):
                _compare(model, graph, samples, _answers(model, samples), "in training")


def check_answers(model: nn.Module, samples: Inputs) -> list[Tensor]:
    """The model's answers in evaluation mode.

    Raises QuantizationError if an answer is not a function of its sample alone.
    """
    expected = _answers(model, samples)
    name = type(model).__name__
    if (found := distance(_answers(model, samples), expected)) > TOLERANCE:
        raise QuantizationError(
            f"{name} answers at random: the same samples twice in evaluation mode differ by {found:.1%}; nothing can be "
            "compared with it. A dropout that stays on (give it `training=self.training`), noise, or a state that each call changes?"
        )
    alone = _answers(model, tuple(x[:1] for x in samples))
    if (found := distance(alone, [answer[:1] for answer in expected])) > TOLERANCE:
        raise QuantizationError(
            f"{name}'s answer to a sample depends on the others in its batch, by {found:.1%}, in evaluation mode too: what it "
            "learns in batches is not what it answers to one sample. Normalise over the sample, or use running statistics"
        )
    return expected


def check_prepared(model: nn.Module, prepared: GraphModule, samples: Inputs, free: Free = ()) -> None:
    """Compares the model with a graph whose quantizers are switched off. Raises QuantizationError for a difference."""
    with as_it_was(model), torch.no_grad():
        model.eval()
        each = (samples, *at_other_sizes(samples, free))
        found = max(distance(_answers(prepared, inputs), _answers(model, inputs)) for inputs in each)
    if found > TOLERANCE:
        raise QuantizationError(
            f"{type(model).__name__} with its quantizers switched off computes something else than the model, by {found:.1%}; "
            "this is a fault of edgekd or of torchao, please report it with the model"
        )


def distance(answers: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Root mean square of the difference over that of the expected values; the largest over several tensors."""
    if [x.shape for x in answers] != [x.shape for x in expected]:
        return float("inf")
    return max((_distance(a.double(), b.double()) for a, b in zip(answers, expected, strict=True)), default=0.0)


def _distance(answer: Tensor, expected: Tensor) -> float:
    sound = expected.isfinite()
    if not torch.equal(sound, answer.isfinite()):
        return float("inf")
    scale = float(expected[sound].square().sum().sqrt())
    error = float((answer[sound] - expected[sound]).square().sum().sqrt())
    return error / max(scale, 1e-6 * max(1, expected.numel()) ** 0.5) if error else 0.0


def is_masked(values: Tensor) -> bool:
    """Whether values contain a mask: infinities, or huge negative values (-10000, the least float) below a gap.

    A common scale for a mask and the other values would leave nothing of the others.
    """
    low, high = (float(end) for end in values.aminmax())
    if math.isinf(low) or math.isinf(high):
        return True
    if not low <= -HUGE or high <= -HUGE:
        return False
    huge = values <= -HUGE
    return bool(values[~huge].abs().max() * GAP < -values[huge].max())


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Restores the model's modes and buffers after the block."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)


def _answers(model: Callable[..., Any], inputs: Inputs) -> list[Tensor]:
    found = model(*(x.clone() for x in inputs))  # a model may write to its input
    return [x.detach().float() for x in tree_leaves(found) if isinstance(x, Tensor)]


def _answers_at(model: nn.Module, inputs: Inputs, at: str) -> list[Tensor]:
    """The model's answers at other sizes than the example's."""
    try:
        return _answers(model, inputs)
    except Exception as error:  # the user's code raises any
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise QuantizationError(
            f"{type(model).__name__} itself does not run{at}: {reason}; bound the size, as FreeSize('length', at_most=64, at_least=4)"
        ) from error


def _sizes_told(inputs: Inputs, free: Free) -> str:
    return " with " + " and ".join(f"{size.name} = {number}" for size, number in sizes_of(inputs, free).items())


def _compare(
    model: nn.Module, graph: GraphModule, inputs: Inputs, expected: Sequence[Tensor], mode: str,
    run: Callable[..., Any] | None = None, at: str = "",
) -> None:  # fmt: skip
    try:
        found = distance(_answers(run or graph, inputs), expected)
    except (RuntimeError, IndexError, ValueError) as error:  # torch's, of a graph that fixes its batch size
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise QuantizationError(
            f"the captured graph of {type(model).__name__} does not run on a batch of {len(inputs[0])}{at}: {reason}"
        ) from error
    if found > TOLERANCE:
        raise QuantizationError(
            f"the captured graph of {type(model).__name__} does not compute what the model computes {mode}, on a batch of "
            f"{len(inputs[0])}{at}: its answers differ by {found:.1%} (rms). The difference begins {_begins(model, graph, inputs)}"
        )


def _begins(model: nn.Module, graph: GraphModule, inputs: Inputs) -> str:
    """The place where the graph's values begin to differ from the values of the model's modules, in words."""
    recorded = _outputs_of_modules(model, inputs)
    last: dict[str, Node] = {}
    for node in graph.graph.nodes:
        for path in _paths(node):
            last[path] = node
    run = _Values(graph)
    run.run(*(x.clone() for x in inputs))
    sound = "its input"
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    for path, node in sorted(last.items(), key=lambda item: (order[item[1]], -len(item[0]))):
        if path not in recorded or node not in run.values or not isinstance(run.values[node], Tensor):
            continue
        arguments, output = recorded[path]
        if distance([run.values[node].float()], output) <= TOLERANCE:
            sound = f"'{path}'"
            continue
        kind = type(model.get_submodule(path)).__name__
        source = next((x for x in _reads(graph, node, path) if x in run.values), None)
        if source is not None and distance([run.values[source].float()], arguments[:1]) > TOLERANCE:
            return f"between {sound} and '{path}' ({kind})"
        return f"in '{path}' ({kind})"
    return f"behind {sound}"


def _reads(graph: GraphModule, node: Node, path: str) -> list[Node]:
    """The values from outside a module that the module's nodes read."""
    inside = [other for other in graph.graph.nodes if path in _paths(other)] or [node]
    return [x for other in inside for x in other.all_input_nodes if x not in inside and x.op != "get_attr"]


def _outputs_of_modules(model: nn.Module, inputs: Inputs) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Path -> the inputs and the output of each module that is called once."""
    calls: dict[str, list[tuple[list[Tensor], list[Tensor]]]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: Any, output: Any) -> None:
            both = (
                [x.detach().float().clone() for x in tree_leaves(of) if isinstance(x, Tensor)]
                for of in (arguments, output)
            )
            calls.setdefault(path, []).append((next(both), next(both)))

        return hook

    hooks = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        model(*(x.clone() for x in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return {path: found[0] for path, found in calls.items() if len(found) == 1 and len(found[0][1]) == 1}


def _paths(node: Node) -> list[str]:
    """The modules that a node is computed in, the outermost first.

    A layer that absorbed a batch norm counts to the batch norm's modules.
    """
    stacks = [node.meta.get("nn_module_stack") or {}]
    if "computes" in node.meta:  # its value is the batch norm's
        stacks = [{key: entry for key, entry in (node.meta["computes"] or {}).items()}]
    return [
        name
        for stack in stacks
        for path, _ in stack.values()
        if (name := str(path).removeprefix("L['self'].")) and name != "L['self']"
    ]


class _Values(Interpreter):
    """Runs a graph and keeps the values of its nodes."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.detach() if isinstance(value, Tensor) else value
        return value


class _Marking(Interpreter):
    """Runs a graph and marks the nodes whose values contain a mask, for example attention scores plus a mask."""

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and is_masked(value):
            n.meta[MASKED] = True
        return value


@contextmanager
def _normalised_by_batch(model: nn.Module, graph: GraphModule, left: Sequence[Node]) -> Iterator[None]:
    """Makes the batch norms of these nodes use batch statistics while the block runs, in model and graph."""
    paths = {paths[-1] for node in left if (paths := _paths(node))}
    arguments = {node: node.args for node in left}
    try:
        for path in paths:
            module = model.get_submodule(path)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = True
        for node in left:
            path = next(iter(reversed(_paths(node))), "")
            learns = bool(path) and model.get_submodule(path).training
            node.args = (*node.args[:5], learns, *node.args[6:])
        graph.recompile()
        yield
    finally:
        for node, given in arguments.items():
            node.args = given
        graph.recompile()
