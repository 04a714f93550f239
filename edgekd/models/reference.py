"""Model references: "edgekd:resnet8", "python:module:function", "timm:name", "onnx:file.onnx", "exported:file.pt2"."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from edgekd.base.external_data import check_external_data
from edgekd.base.raised import line_of_user
from edgekd.base.references import load_function
from edgekd.errors import ModelError, nearest
from edgekd.models.bc_resnet import bc_resnet
from edgekd.models.called import CalledModel
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.efficientnet_lite import efficientnet_lite0
from edgekd.models.exported import load_exported
from edgekd.models.ft_transformer import ft_transformer
from edgekd.models.ghostnet import ghostnet
from edgekd.models.mlp import mlp
from edgekd.models.mobilenet import mobilenetv2_035, mobilenetv2_05
from edgekd.models.mobilenetv3 import mobilenetv3_large, mobilenetv3_small
from edgekd.models.mobileone import mobileone_s0
from edgekd.models.repvgg import repvgg_a0
from edgekd.models.resnet import resnet8, resnet20
from edgekd.models.unet import unet
from edgekd.models.weight_files import read_weights, without_prefix
from edgekd.models.weights import begin_with, load_weights
from edgekd.models.wrn import wrn_16_2
from edgekd.recipe import Model
from edgekd.recipe.forms import FORMS
from edgekd.runtime.sessions import Ended, Refused, Session

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "wrn-16-2": wrn_16_2,
    "mobilenetv2-0.5": mobilenetv2_05,
    "mobilenetv2-0.35": mobilenetv2_035,
    "mobilenetv3-small": mobilenetv3_small,
    "mobilenetv3-large": mobilenetv3_large,
    "efficientnet-lite0": efficientnet_lite0,
    "ghostnet": ghostnet,
    "repvgg-a0": repvgg_a0,
    "mobileone-s0": mobileone_s0,
    "ds-cnn": ds_cnn,
    "bc-resnet": bc_resnet,
    "unet": unet,
    "mlp": mlp,
    "ft-transformer": ft_transformer,
}
TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip
LARGEST_BATCH = 2**31  # a limit beyond is none


Tell = Callable[[str], object]
"""Takes the rest of a sentence about a model."""


def load_model(
    reference: Model,
    *,
    num_classes: int | tuple[int, ...],
    tell: Tell | None = None,
    partly: bool = False,
    **offers: Any,
) -> nn.Module:
    """The model of a recipe's section in eval mode, with its weights if the section names some.

    `num_classes` and `offers` (for images `in_channels`) come from the data. They are passed to a function that takes them,
    unless `args` sets them. `num_classes` is a tuple for a network that gives a tensor for each of several tasks. A function
    may give a function of a table's columns (`CalledModel`), if the data offers these. With `partly`, for a model that trains
    on, weights may fit in part. `tell` is told which form the weights have and which were taken. Raises ModelError for an
    unknown name, arguments that the function does not take, a missing file, and weights that do not fit.
    """
    kind, _, name = reference.model.partition(":")
    if not isinstance(num_classes, int) and kind != "python" and reference.model != "edgekd:unet":
        raise ModelError(
            f"model '{reference.model}' gives one tensor, and the tasks need one for each, of {num_classes} outputs; give edgekd:unet, or "
            "python:module:function with a network that returns a tuple"
        )
    if kind == "onnx":
        return OnnxModel(_existing(name, reference.model))
    if kind == "exported":
        return ExportedModel(load_exported(_existing(name, reference.model), reference.model))
    if kind == "timm":
        assert isinstance(num_classes, int)
        return _with_weights(_load_timm(name, reference, num_classes, offers), reference, tell, partly)
    function = _function_of(reference.model)
    given = {"num_classes": num_classes, **offers}
    parameters = inspect.signature(function).parameters
    arguments = {key: value for key, value in given.items() if key in parameters} | reference.args
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ModelError(f"model '{reference.model}': {error}; it takes {', '.join(parameters)}") from error
    model = _made(lambda: function(**arguments), reference, offers)
    return model if isinstance(model, CalledModel) else _with_weights(model, reference, tell, partly)


def check_reference(model: Model) -> None:
    """Raise ModelError for a model of a recipe that no one has, or whose function lacks one of the recipe's arguments.

    A module with the function is imported; no network is made, and no weights are read.
    """
    kind, _, name = model.model.partition(":")
    if kind == "timm":
        _timm_with(name)
    if kind not in ("edgekd", "python"):
        return
    parameters = inspect.signature(_function_of(model.model)).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in model.args:
            if key not in parameters:
                raise ModelError(f"model '{model.model}' takes no argument {key!r}{nearest(key, parameters)}")


def _function_of(reference: str) -> Callable[..., Any]:
    """The function that makes a network. Raises ModelError for an unknown name or form."""
    kind, _, name = reference.partition(":")
    if kind == "python":
        return load_function(reference)
    if kind != "edgekd":
        close = [f"edgekd:{known}" for known in difflib.get_close_matches(reference, BUILT_IN, n=1)]
        raise ModelError(
            f"model '{reference}' has an unknown form; give {', '.join(FORMS)}{''.join(f'. Did you mean {c}?' for c in close)}"
        )
    if name not in BUILT_IN:
        raise ModelError(f"model 'edgekd:{name}' not found{nearest(name, BUILT_IN)}")
    return BUILT_IN[name]


def _made(make: Callable[[], Any], reference: Model, offers: Mapping[str, Any]) -> nn.Module:
    """The model that a function makes. Raises ModelError if it fails, or gives no module or one whose sizes are not known yet."""
    try:
        with warnings.catch_warnings():  # torch warns of a fast path that neither training nor an export takes
            warnings.filterwarnings("ignore", "enable_nested_tensor is True")
            model = make()
    except (Exception, SystemExit) as error:  # a user's function may raise anything, or end the program
        where = f" (in {line})" if (line := line_of_user(error)) else ""
        raise ModelError(
            f"model '{reference.model}' could not be made{where}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module) and callable(model) and "columns" in offers:
        return CalledModel(model, offers["columns"], reference.model)
    if not isinstance(model, nn.Module):
        more = "" if "categories" not in offers else ", or as a teacher with raw = true a function of a table's columns"
        raise ModelError(
            f"model '{reference.model}' gave a {type(model).__name__}; it must return a torch.nn.Module{more}"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise ModelError(
            f"model '{reference.model}' has lazy layers, whose sizes are not known yet; run it once, where it is made, on zeros of "
            "one sample's size (as model(torch.zeros(1, 3, 32, 32)))"
        )
    return model


def number_of_classes(
    model: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    called: str = "the model",
    remedy: str = "",
    noun: str = "inputs",
    maps: tuple[int, ...] = (),
) -> int:
    """The width of the logits, from a forward pass on the `arguments` for a few samples.

    maps: the height and width of a dense task's logits. Raises ModelError if the model does not take the arguments, and for
    another shape of logits. called, noun, remedy: the words for the model, the samples and the remedy in that error.
    """
    logits = answer_of(model, arguments, called, remedy, noun)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 + len(maps) or tuple(logits.shape[2:]) != maps:
        what = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        wanted = ", ".join(["batch", "classes", *map(str, maps)])
        why = ", a class for each pixel of the masks" if maps else ""
        raise ModelError(f"{called} must return logits [{wanted}]{why}; it returned {what}")
    return logits.shape[1]


def answer_of(model: nn.Module, arguments: tuple[torch.Tensor, ...], called: str, remedy: str, noun: str) -> Any:
    """The answer in evaluation mode. Raises ModelError if the model does not take the arguments."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            answer = model(*arguments)
    except ModelError:  # an ONNX file that ends its process
        raise
    except (Exception, SystemExit) as error:  # a user's forward may raise anything, or end the program
        reason = next(iter(str(error).strip().splitlines()), "")
        where = f" (in {line})" if (line := line_of_user(error)) else ""
        raise ModelError(
            f"{called} does not take {noun} {shapes_of(arguments)}: {type(error).__name__}: {reason}{where}{remedy}"
        ) from error
    model.train(training)
    return answer


def shapes_of(arguments: Iterable[torch.Tensor]) -> str:
    """The shapes of tensors in words: "[batch, 3, 32, 32]", joined by "and"."""
    return " and ".join(f"[{', '.join(['batch', *map(str, each.shape[1:])])}]" for each in arguments)


class OnnxModel(nn.Module):
    """An ONNX file run by onnxruntime: a network's arguments to logits, without gradients and layers.

    `takes`: the sizes of each input, None for a free size. A file with a fixed batch is run in pieces.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        check_external_data(path)
        try:
            # onnxruntime's default takes every core.
            self.session = Session(path, threads=torch.get_num_threads(), log=2)
        except Ended as error:
            raise ModelError(
                f"'onnx:{path}' cannot be used: {error}; export it anew, or from another version"
            ) from error
        except Refused as error:
            raise ModelError(f"'onnx:{path}' cannot be loaded: {str(error).splitlines()[0]}") from error
        inputs = self.session.get_inputs()
        told = ", ".join(f"{given.name} {given.type}" for given in inputs)
        if not inputs or any(given.type not in TYPES for given in inputs):
            raise ModelError(
                f"'onnx:{path}' has the inputs {told}; a teacher takes normalised floats, or what the data gives as it is"
            )
        self.inputs = {given.name: given.type for given in inputs}
        self.takes = tuple(
            tuple(size if isinstance(size, int) and size > 0 else None for size in given.shape) for given in inputs
        )

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        return in_pieces(self._run, arguments, fixed(self.takes))

    def _run(self, *arguments: torch.Tensor) -> torch.Tensor:
        feeds = feeds_of(self.inputs, [argument.cpu().contiguous().numpy() for argument in arguments])
        try:
            outputs = self.session.run(None, feeds)
        except Refused as error:
            raise ValueError(str(error).splitlines()[0]) from error
        return torch.from_numpy(outputs[0])


def feeds_of(types: Mapping[str, str], arguments: Sequence[npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """A network's arguments for an ONNX file, by the names of its inputs. types: onnxruntime's words for these.

    Floats become the file's floats, and whole numbers its whole numbers. Raises ValueError for other types, and for another
    number of arguments.
    """
    if len(arguments) != len(types):
        raise ValueError(f"it has the inputs {', '.join(types)}; {len(arguments)} were given")
    feeds = {}
    for (name, kind), argument in zip(types.items(), arguments, strict=True):
        dtype = np.dtype(TYPES[kind])
        if argument.dtype.kind != dtype.kind:
            raise ValueError(
                f"its input {name} is {dtype}, {argument.dtype} was given; a teacher takes normalised floats"
            )
        feeds[name] = argument.astype(dtype)
    return feeds


class ExportedModel(nn.Module):
    """A torch.export program in the mode of its export. It has operators, and no modules whose features could be read.

    The program is not a child of this module, because it refuses `train()` and `eval()`. `takes`: the sizes of each input,
    None for a free size. A program with a fixed batch is run in pieces, and one with a least or largest batch in such ones.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self._program = (program.requires_grad_(False),)
        inputs: Any = [node for node in program.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        values = [node.meta.get("val") for node in inputs]
        self.takes = tuple(
            tuple(size if isinstance(size, int) else None for size in value.shape)
            for value in values
            if isinstance(value, torch.Tensor)
        )
        self._least, self._most = limits_of_batch(values)

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        number, size = len(arguments[0]), fixed(self.takes)
        if size is None and not self._least <= number <= self._most:
            size = self._least if number < self._least else int(self._most)
        return in_pieces(self._program[0], arguments, size)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> ExportedModel:
        self._program[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def fixed(takes: tuple[tuple[int | None, ...], ...]) -> int | None:
    """The fixed batch size of a graph; None if the graph takes any batch."""
    return next((sizes[0] for sizes in takes if sizes and sizes[0] is not None), None)


def limits_of_batch(values: Sequence[Any]) -> tuple[int, float]:
    """The least and the largest batch that an exported program takes. values: its inputs, as torch.export describes them.

    `Dim("batch", min=2, max=32)` gives such limits.
    """
    least, most = 0, math.inf
    for value in values:
        size = value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else 0
        if isinstance(size, torch.SymInt):
            limits = size.node.shape_env.var_to_range.get(size.node.expr)
            if limits is not None:
                least = max(least, int(limits.lower))
                most = min(most, float(limits.upper) if limits.upper < LARGEST_BATCH else math.inf)
    return least, most


def in_pieces(run: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...], size: int | None) -> torch.Tensor:
    """The results of `run` on pieces of `size` samples, as a graph of a fixed batch needs them.

    The last piece is filled up, and its result cut. Without `size` all samples run at once.
    """
    number = len(arguments[0])
    if size is None or number == size:
        return run(*arguments)
    filled = [torch.cat([x, x[-1:].expand(-number % size, *x.shape[1:])]) for x in arguments]
    pieces = zip(*(torch.split(x, size) for x in filled), strict=True)
    return torch.cat([run(*piece) for piece in pieces])[:number]


def _existing(name: str, reference: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"'{reference}': no such file: {path}")
    return path


def _timm_with(name: str) -> Any:
    """timm, if it has a model of this name. Raises ModelError if not, or if timm does not import."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        # Beside a CPU build of torch, torchvision from the registry ends in a RuntimeError about torchvision::nms.
        raise ModelError(
            f"'timm:{name}' needs timm, which does not import here ({str(error).splitlines()[0]}); "
            "install it with: pip install 'edgekd[timm]' (with a torchvision that fits your torch)"
        ) from error
    if name not in timm.list_models():
        raise ModelError(f"timm has no model '{name}'{nearest(name, timm.list_models(f'*{name[:4]}*'))}")
    return timm


def _load_timm(name: str, reference: Model, num_classes: int, offers: Mapping[str, Any]) -> nn.Module:
    timm = _timm_with(name)
    if "in_channels" not in offers:
        raise ModelError(f"'timm:{name}' reads images, which this data has not; give another model")
    arguments = {"num_classes": num_classes, "in_chans": offers["in_channels"]} | reference.args
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def _with_weights(model: nn.Module, reference: Model, tell: Tell | None, partly: bool) -> nn.Module:
    if reference.weights is None:
        return model.eval()
    path = _existing(reference.weights, reference.weights)
    file = read_weights(path)
    weights, renamed = without_prefix(file.tensors, model.state_dict())
    told = [f"reads {' with '.join(filter(None, (file.form, renamed)))} from {path}"] if file.form or renamed else []
    if not partly:
        load_weights(model, weights, str(path))
    elif (taken := begin_with(model, weights, str(path))) is not None:
        told.append(taken)
    if tell is not None:
        for line in told:
            tell(line)
    return model.eval()
