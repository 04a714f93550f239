"""load_exported: loads a torch.export program (.pt2) as a module, without unpickling or running text of the file.

`torch.export.load` unpickles the sample inputs. The program also holds texts that torch evaluates as Python: sizes, guards,
names of variables in generated code, functions by their path in torch. Here the archive is read record by record. The
program's text is compared with the forms that `torch.export.save` writes. Parts that are not needed to run the program are
left out. Torch's own deserialiser gets the rest, with tensors that were read raw or by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import keyword
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn
from torch._export.serde import schema, serialize

from edgekd.base.names import in_a_line
from edgekd.errors import ModelError

OTHERWISE = (
    "give the teacher as onnx:FILE (torch.onnx.export), or as python:FILE.py:function with weights in .safetensors, "
    "where loading it can run nothing"
)
NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,199})?")
PATH = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+){0,50}")
TEXT = re.compile(r"[A-Za-z0-9_ ,.>-]{0,200}")  # a mode, a rounding, an einsum's equation
FLOAT = re.compile(r"-?Infinity|NaN")
DECIMAL = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,40})?")
SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,6}")
FUNCTION = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|(Floor|Ceil|Clean)Div|ModularIndexing|(Python)?Mod|(Ceil|Floor|Trunc)ToInt|"
    "(TruncTo|To)Float|(Int|Float)TrueDiv|Identity|Max|Min|Equality|Unequality|(Strict)?(Less|Greater)Than|Eq|Ne|And|Or|Not"
)
IN_SIZES = (
    *(
        ast.Expression,
        ast.Call,
        ast.Name,
        ast.Load,
        ast.Constant,
        ast.keyword,
        ast.BinOp,
        ast.Add,
        ast.Sub,
        ast.Mult,
        ast.Div,
    ),
    *(ast.UnaryOp, ast.USub, ast.Pow, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)
OPERATOR = re.compile(r"torch\.ops\.(aten|prims|quantized_decomposed)\.([A-Za-z0-9_]{1,100})\.([A-Za-z0-9_]{1,100})")
HIGHER_ORDER = re.compile(r"torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)")
OF_SIZES = re.compile(
    r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|truediv|and_|or_)|math\.(trunc|ceil|floor)|"
    r"torch\.sym_(not|int|float|ite|max|min)"
)
TREES = frozenset([None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"])


class _Refused(ValueError):
    """A part of the file that is not read, and why."""


def load_exported(path: Path, reference: str) -> nn.Module:
    """The program of a .pt2 file on the CPU, in the mode of its export. reference: the user's reference, for errors.

    Raises ModelError for a file that is damaged, or that another torch wrote in an unreadable form. A file that holds more
    than tensors and operators is refused too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            program = _program(_Records(archive))
        return program.module()
    except _Refused as error:
        raise ModelError(f"'{reference}': {in_a_line(str(error))}; {OTHERWISE}") from error
    except Exception as error:  # on a damaged file torch's deserialiser raises many kinds of errors
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
        raise ModelError(
            f"'{reference}': not a torch.export program that this torch ({torch.__version__}) reads ({reason}); export it anew with "
            f"torch.export.save, or {OTHERWISE}"
        ) from error


class _Records:
    """The records of a .pt2 archive by their names below its root folder.

    Compressed records are refused: torch compresses none, and a record must not grow larger than its file.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            raise _Refused("its archive holds a record twice")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise _Refused("its archive is packed, which torch.export.save never does")
        root = names[0].split("/")[0] + "/" if names and "/" in names[0] else ""
        if "version" in names:  # torch 2.7 and before: no root folder
            root = ""
        self.archive = archive
        self.names = {name.removeprefix(root): name for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> bytes:
        if name not in self.names:
            raise _Refused(f"its archive has no record {name}")
        return self.archive.read(self.names[name])

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))


def _program(records: _Records) -> torch.export.ExportedProgram:
    if "byteorder" in records and records.read("byteorder").strip() != b"little":
        raise _Refused("its numbers are big-endian")
    if "serialized_exported_program.json" in records:  # torch 2.7 and before
        document = records.json("serialized_exported_program.json")
        weights, constants = (
            _unpacked(records.read(f"serialized_{what}.pt"), what) for what in ("state_dict", "constants")
        )
    else:
        document = records.json("models/model.json")
        weights, constants = (_tensors(records, what) for what in ("weights", "constants"))
    program: Any = serialize._dict_to_dataclass(schema.ExportedProgram, checked(document))  # type: ignore[no-untyped-call]
    return serialize.ExportedProgramDeserializer().deserialize(program, weights, constants)


# -------------------------------------------------------------------------------------------------------------- tensors


def _tensors(records: _Records, what: str) -> dict[str, torch.Tensor]:
    """The weights or constants by name. Tensors that share storage in the file share it here."""
    if f"data/{what}/model.pt" in records:
        return _unpacked(records.read(f"data/{what}/model.pt"), what)
    described = records.json(f"data/{what}/model_{what}_config.json")["config"]
    stored: dict[str, torch.Tensor] = {}
    tensors = {}
    for name, about in described.items():
        _hold(PATH, name, "a weight's name")
        record = str(about["path_name"])
        if not re.fullmatch(r"(weight|tensor)_[0-9]{1,9}", record):
            raise _Refused(f"its constant {name!r} is an object ({record[:100]!r}), no tensor")
        data = records.read(f"data/{what}/{record}")
        if about["use_pickle"]:
            tensors[name] = _unpacked(data, name, one=True)[""]
            continue
        tensor = _strided(stored, record, data, about["tensor_meta"])
        if about["is_param"]:
            tensor = nn.Parameter(tensor, requires_grad=bool(about["tensor_meta"]["requires_grad"]))
        tensors[name] = tensor
    return tensors


def _strided(stored: dict[str, torch.Tensor], record: str, data: bytes, about: Mapping[str, Any]) -> torch.Tensor:
    """The tensor in a record's raw bytes. `stored`: record -> its bytes. torch refuses strides that leave the bytes."""
    kind = serialize.deserialize_scalar_type(about["dtype"])
    sizes, strides, (offset,) = (
        [_whole(size) for size in listed] for listed in (about["sizes"], about["strides"], [about["storage_offset"]])
    )
    if record not in stored:
        if not data and 0 not in sizes:
            raise _Refused(f"its record {record} is empty")
        stored[record] = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        )
    return torch.as_strided(stored[record].view(kind), sizes, strides, offset)


def _whole(size: Any) -> int:
    number = size["as_int"]
    if type(number) is not int or not 0 <= number < 2**48:
        raise _Refused(f"a tensor of it has the size {str(number)[:40]}")
    return number


def _unpacked(data: bytes, what: str, *, one: bool = False) -> dict[str, torch.Tensor]:
    """The tensors that torch.save wrote, by name, read with `weights_only=True`. With `one`: a single tensor, named ""."""
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if data else {}
    except Exception as error:  # torch's unpickler raises many kinds of errors
        raise _Refused(
            f"its {what} are pickled with more than tensors, or damaged: loading them could run any code"
        ) from error
    found = {"": loaded} if one else loaded
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise _Refused(f"its {what} hold other things than tensors")
    return found


# ----------------------------------------------------------------------------------------------------- the program's text


def checked(document: Any) -> dict[str, Any]:
    """The part of a program's JSON that is needed to run the program on the CPU.

    Raises ValueError for a text that torch would run.
    """
    module = document["graph_module"]
    calls = [{**call, "fqn": ""} for call in module["module_call_graph"] if call["fqn"] == ""]
    needed = {
        "graph": _checked_graph(module["graph"]),
        "signature": _checked(module["signature"], "signature"),
        "module_call_graph": [_checked(call, "module_call_graph") for call in calls],
    }
    limits = document["range_constraints"]
    for symbol in limits:
        _hold(SYMBOL, symbol, "a size's name")
    return {
        "graph_module": needed,
        "opset_version": {},
        "range_constraints": _checked(limits, "range_constraints"),
        "schema_version": {part: int(document["schema_version"][part]) for part in ("major", "minor")},
        "verifiers": [_hold(re.compile("[A-Z_]{1,40}"), name, "a verifier") for name in document.get("verifiers", [])],
    }


def _checked_graph(graph: Any) -> dict[str, Any]:
    """The checked graph without the metadata of nodes, for example the source lines of the program."""
    nodes = [{**node, "metadata": {}} for node in graph["nodes"]]
    return {key: _checked(value, key) for key, value in {**graph, "nodes": nodes}.items()}


def _checked(value: Any, key: str) -> Any:
    """A checked part of the program: every text must have a form known to be harmless. key: the part's key."""
    if isinstance(value, dict):
        if key == "graph":
            return _checked_graph(value)
        if key in ("device", "as_device"):
            return {"type": "cpu", "index": None}
        for name in value:
            _hold(NAME, name, "a name")
        return {name: _checked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, key) for item in value]
    if isinstance(value, str):
        if key not in TEXTS:
            raise _Refused(f"its program has the text {value[:100]!r} as {key[:40]}")
        TEXTS[key](value)
    return value


def _hold(pattern: re.Pattern[str], text: Any, what: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text) or keyword.iskeyword(text) or text.startswith("__"):
        raise _Refused(f"its program has {what} {str(text)[:100]!r}, which could run code or leave the model")
    return text


def _hold_operator(target: str) -> None:
    """Refuse all but operators that compute.

    Other functions of torch could open files or run code. Operators that take a file name are refused too.
    """
    if HIGHER_ORDER.fullmatch(target) or OF_SIZES.fullmatch(target):
        return
    found = OPERATOR.fullmatch(target)
    if not found:
        raise _Refused(
            f"its program calls {target[:100]!r}, which is no operator of aten, prims or quantized_decomposed"
        )
    space, name, overload = found.groups()
    if space == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
    operator = getattr(getattr(getattr(torch.ops, space), name, None), overload, None)
    if not isinstance(operator, torch._ops.OpOverload) or not torch._C._dispatch_has_kernel(operator._name):
        raise _Refused(f"this torch has no operator {target[:100]!r}, which its program calls")
    if any(argument.name == "filename" for argument in operator._schema.arguments):
        raise _Refused(f"its program opens files ({target})")


def _hold_size(text: str) -> None:
    """Refuse a size that could run code: torch evaluates the formula of a size as Python.

    Allowed are known functions, small powers, numbers and names of symbols.
    """
    refused = _Refused(f"its program has the size {text[:100]!r}, which could run code")
    if len(text) > 1000:
        raise refused
    parts = list(ast.walk(ast.parse(text, mode="eval")))
    options = [part for part in parts if isinstance(part, ast.keyword)]  # positive=True, precision=53
    called = [part.func for part in parts if isinstance(part, ast.Call)]
    names = {id(part): part.id for part in parts if isinstance(part, ast.Name)}
    functions = {names.get(id(function), "") for function in called}
    symbols = set(names.values()) - functions
    constants = [part.value for part in parts if isinstance(part, ast.Constant)]
    numbers = [value for value in constants if isinstance(value, int | float)]
    texts = [value for value in constants if not isinstance(value, int | float)]
    if (
        not all(isinstance(part, IN_SIZES) for part in parts)
        or not all(map(FUNCTION.fullmatch, functions))
        or not all(SYMBOL.fullmatch(symbol) or symbol in ("true", "false") for symbol in symbols)
        or not all(isinstance(word, str) and (SYMBOL.fullmatch(word) or DECIMAL.fullmatch(word)) for word in texts)
        or sum(map(_is_power, parts)) > 3
        or any(abs(number) > 2**63 for number in numbers)
        or any(not isinstance(part.value, ast.Constant) or part.value.value not in range(201) for part in options)
    ):
        raise refused
    for power in filter(_is_power, parts):
        exponents = [power.right] if isinstance(power, ast.BinOp) else power.args[1:]
        written = " ".join(map(ast.unparse, exponents)).replace("Integer(", "").rstrip(")")
        if not re.fullmatch("-?[0-8]", written):
            raise refused


def _is_power(part: ast.AST) -> TypeGuard[ast.BinOp | ast.Call]:
    if isinstance(part, ast.Call):
        return isinstance(part.func, ast.Name) and part.func.id == "Pow"
    return isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow)


def _hold_tree(text: str) -> None:
    """Refuse inputs and outputs that are nested in other types than tuples, lists and dictionaries.

    torch would import other types by name.
    """
    release, tree = json.loads(text)
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        context = json.loads(part["context"]) if isinstance(part["context"], str) else None
        keys = context if isinstance(context, list) else [context]
        if part["type"] not in TREES or not all(isinstance(key, str | int | None) for key in keys):
            raise _Refused(f"its inputs or outputs are a {str(part['type'])[:100]}")
        waiting += part["children_spec"]
    if release != 1:
        raise _Refused(f"its inputs are described in release {str(release)[:40]}")


def _holds(pattern: re.Pattern[str], what: str) -> Callable[[str], None]:
    def hold(text: str) -> None:
        _hold(pattern, text, what)

    return hold


TEXTS: Mapping[str, Callable[[str], None]] = {
    **dict.fromkeys(("name", "as_name", "user_input_name", "forward_arg_names"), _holds(NAME, "a name")),
    **dict.fromkeys(("parameter_name", "buffer_name", "tensor_constant_name"), _holds(PATH, "a weight's name")),
    **dict.fromkeys(("as_string", "as_strings"), _holds(TEXT, "the text")),
    **dict.fromkeys(("as_float", "as_floats", "real", "imag"), _holds(FLOAT, "the number")),
    **dict.fromkeys(("target", "as_operator"), _hold_operator),
    **dict.fromkeys(("in_spec", "out_spec"), _hold_tree),
    "expr_str": _hold_size,
    "fqn": _holds(re.compile(""), "a module's name"),
}
