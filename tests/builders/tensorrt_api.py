"""Checks a source's use of TensorRT against a release's list of names, enum members, methods and signatures.

The walk follows types: `trt.X` is looked up in the list; a variable's class is its annotation, the class that was called,
or what the signature of the called method says. A name that a release lacks is a fault unless the source has asked for it
with `hasattr` (an `if` around it, or an `if not hasattr(...): raise` before it).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MODULE = "tensorrt"
SEVERITIES = {
    "VERBOSE",
    "INFO",
    "WARNING",
    "ERROR",
    "INTERNAL_ERROR",
}  # pybind11 exports the enum's members into Logger


class Type(NamedTuple):
    """What an expression is: the module, a class, a bound method, an instance, or a list or tuple of such."""

    kind: str  # module, class, method, instance, items, tuple
    name: str = ""
    items: tuple[Type | None, ...] = ()
    signature: str = ""


class Use(NamedTuple):
    """One name of TensorRT in the source: `IBuilderConfig.set_flag`, where, and whether `hasattr` was asked before."""

    line: int
    name: str
    asked: bool


@dataclass
class Api:
    """A release's list: `classes` with attributes, methods (name -> signature), enum, bases, nested; `functions`."""

    content: Mapping[str, Any]

    @property
    def classes(self) -> Mapping[str, Any]:
        return dict(self.content["classes"])

    def described(self, owner: str) -> Iterator[Mapping[str, Any]]:
        about = self.classes.get(owner, {})
        yield about
        for base in about.get("bases", []):
            yield from self.described(base)

    def members(self, owner: str) -> set[str]:
        found: set[str] = set()
        for about in self.described(owner):
            for kind in ("attributes", "methods", "enum", "nested"):
                found |= set(about.get(kind, ()))
            if "enum" in about:
                found |= {"name", "value"}  # of every pybind11 enum member
        return found | (SEVERITIES if "Severity" in found else set())

    def signature(self, owner: str, method: str) -> str:
        return next(
            (about["methods"][method] for about in self.described(owner) if method in about.get("methods", {})), ""
        )

    def has(self, name: str) -> bool:
        """`X` or `X.member`."""
        owner, _, member = name.partition(".")
        known = owner in self.classes or owner in self.content["functions"] or owner == "__version__"
        return known if not member else member in self.members(owner)

    def named(self, text: str) -> Type | None:
        """The class that a signature calls `nvinfer1::IParserError` and Python `ParserError`."""
        name = re.sub(r"^.*(::|\.)", "", text.strip())
        return next(
            (Type("instance", known) for known in (name, name.removeprefix("I")) if known in self.classes), None
        )


def parameters(signature: str) -> list[str] | None:
    """`f(self: X, a: int, b: str = None) -> Y` -> the texts of its parameters but self; None where it tells none."""
    match = re.match(r"^\w+\((.*)\)(?: -> .*)?$", signature, re.DOTALL)
    if not match or "*args" in match[1]:
        return None
    parts, depth, current = [], 0, ""
    for letter in match[1]:
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return [part for part in [*parts, current.strip()] if part and not part.startswith("self")]


def returned(signature: str) -> str:
    return signature.rpartition(" -> ")[2] if " -> " in signature else ""


@dataclass
class Checker:
    """One walk over one source with one release's list; `faults` are (line, sentence), `uses` all names that were seen."""

    api: Api
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    fields: dict[str, Type] = field(default_factory=dict)  # self.x of any class of the source
    faults: list[tuple[int, str]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    guards: set[str] = field(default_factory=set)  # every name that the source asks for with hasattr

    def check(self, source: str) -> Checker:
        tree = ast.parse(source)
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                self.function(node)
        self.faults.sort()
        return self

    def function(self, node: ast.FunctionDef) -> None:
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        types = {argument.arg: self.annotated(argument.annotation) for argument in every}
        env = {name: kind for name, kind in types.items() if kind is not None}
        env["trt"] = Type("module")
        self.block(node.body, env, set())

    def annotated(self, annotation: ast.expr | None) -> Type | None:
        if isinstance(annotation, ast.Name):
            return self.api.named(annotation.id) if annotation.id[:1].isupper() else None
        if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
            inner = annotation.slice
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            kinds = tuple(self.annotated(part) for part in parts)
            return Type("tuple", items=kinds) if annotation.value.id == "tuple" else None
        return None

    # ------------------------------------------------------------------------------------------------------- statements

    def block(self, body: list[ast.stmt], env: dict[str, Type], asked: set[str]) -> None:
        """`asked` holds the names that hasattr has confirmed on the way here."""
        for statement in body:
            self.statement(statement, env, asked)
            if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Raise | ast.Return | ast.Continue):
                asked = asked | self.refuted(statement.test, env)

    def statement(self, node: ast.stmt, env: dict[str, Type], asked: set[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return
        if isinstance(node, ast.If):
            self.expression(node.test, env, asked)
            self.block(node.body, env, asked | self.confirmed(node.test, env))
            self.block(node.orelse, env, asked)
        elif isinstance(node, ast.For):
            self.bind(node.target, self.element(self.expression(node.iter, env, asked)), env)
            self.block(node.body, env, asked)
        elif isinstance(node, ast.With | ast.Try | ast.While):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child, env, asked)
                elif isinstance(child, ast.withitem):
                    self.expression(child.context_expr, env, asked)
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for body in (node.body, *handlers, getattr(node, "orelse", []), getattr(node, "finalbody", [])):
                self.block(body, env, asked)
        elif isinstance(node, ast.Assign):
            kind = self.expression(node.value, env, asked)
            for target in node.targets:
                self.expression(target, env, asked)
                self.bind(target, kind, env)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.expression(node.value, env, asked)
            self.bind(node.target, self.annotated(node.annotation), env)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child, env, asked)

    def bind(self, target: ast.expr, kind: Type | None, env: dict[str, Type]) -> None:
        if isinstance(target, ast.Tuple):
            kinds = kind.items if kind is not None and kind.kind == "tuple" else (None,) * len(target.elts)
            for part, part_kind in zip(target.elts, kinds, strict=False):
                self.bind(part, part_kind, env)
        elif isinstance(target, ast.Attribute) and kind is not None:
            self.fields[target.attr] = kind
        elif isinstance(target, ast.Name):
            env.pop(target.id, None)
            if kind is not None:
                env[target.id] = kind

    def element(self, kind: Type | None) -> Type | None:
        return kind.items[0] if kind is not None and kind.kind == "items" else None

    # ----------------------------------------------------------------------------------------------------------- guards

    def confirmed(self, test: ast.expr, env: dict[str, Type]) -> set[str]:
        """What is there where a condition holds."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return set().union(*(self.confirmed(value, env) for value in test.values))
        name = self.asked_for(test, env)
        return {name} if name else set()

    def refuted(self, test: ast.expr, env: dict[str, Type]) -> set[str]:
        """What is there where a condition does not hold: `not hasattr(a, "b") or not hasattr(...)`."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
            return set().union(*(self.refuted(value, env) for value in test.values))
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.confirmed(test.operand, env)
        return set()

    def asked_for(self, test: ast.expr, env: dict[str, Type]) -> str:
        """`hasattr(trt.X, "y")` -> `X.y`; empty for another condition."""
        if not (isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr"):
            return ""
        owner, name = self.resolve(test.args[0], env), test.args[1]
        if owner is None or not isinstance(name, ast.Constant):
            return ""
        full = f"{owner.name}.{name.value}" if owner.kind in ("class", "instance") else str(name.value)
        self.guards.add(full)
        return full

    # ------------------------------------------------------------------------------------------------------ expressions

    def expression(self, node: ast.expr, env: dict[str, Type], asked: set[str]) -> Type | None:
        """Checks an expression and all within it; returns what it is, as far as that can be followed."""
        if isinstance(node, ast.Attribute):
            return self.attribute(node, env, asked)
        if isinstance(node, ast.Call):
            return self.call(node, env, asked)
        if isinstance(node, ast.Name):
            return env.get(node.id)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            inner = dict(env)
            for part in node.generators:
                self.bind(part.target, self.element(self.expression(part.iter, inner, asked)), inner)
                for condition in part.ifs:
                    self.expression(condition, inner, asked)
            if isinstance(node, ast.DictComp):
                self.expression(node.key, inner, asked)
                self.expression(node.value, inner, asked)
                return None
            return Type("items", items=(self.expression(node.elt, inner, asked),))
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for value in node.values:
                self.expression(value, env, asked)
                asked = asked | self.confirmed(value, env)
            return None
        if isinstance(node, ast.IfExp):
            self.expression(node.test, env, asked)
            self.expression(node.body, env, asked | self.confirmed(node.test, env))
            self.expression(node.orelse, env, asked)
            return None
        if isinstance(node, ast.List) and node.elts:
            return Type("items", items=tuple(self.expression(part, env, asked) for part in node.elts))
        if isinstance(node, ast.Tuple):
            return Type("tuple", items=tuple(self.expression(part, env, asked) for part in node.elts))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child, env, asked)
        return None

    def resolve(self, node: ast.expr, env: dict[str, Type]) -> Type | None:
        """What an expression is, checking nothing."""
        quiet = Checker(self.api, self.functions, self.fields)
        return quiet.expression(node, env, set())

    def attribute(self, node: ast.Attribute, env: dict[str, Type], asked: set[str]) -> Type | None:
        owner = self.expression(node.value, env, asked)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self.fields.get(node.attr)
        if owner is None or owner.kind not in ("module", "class", "instance"):
            return None
        name = node.attr if owner.kind == "module" else f"{owner.name}.{node.attr}"
        self.uses.append(Use(node.lineno, name, name in asked))
        if not self.api.has(name) and name not in asked:
            self.faults.append((node.lineno, f"{name} does not exist"))
        if owner.kind == "module":
            return Type("class", name) if node.attr in self.api.classes else None
        signature = self.api.signature(owner.name, node.attr)
        return Type("method", node.attr, signature=signature) if signature else None

    def call(self, node: ast.Call, env: dict[str, Type], asked: set[str]) -> Type | None:
        called = self.expression(node.func, env, asked)
        for argument in node.args:
            self.expression(argument, env, asked)
        for keyword in node.keywords:
            self.expression(keyword.value, env, asked)
        if called is None:
            own = self.functions.get(node.func.id) if isinstance(node.func, ast.Name) else None
            return self.annotated(own.returns) if own is not None else None
        if called.kind == "class":
            self.arity(node, called.name, self.api.signature(called.name, "__init__"))
            return Type("instance", called.name)
        if called.kind == "method":
            self.arity(node, called.name, called.signature)
            return self.api.named(returned(called.signature))
        return None

    def arity(self, node: ast.Call, name: str, signature: str) -> None:
        """The number of arguments and the names of keywords, where the signature tells them."""
        expected = parameters(signature)
        if expected is None or any(isinstance(argument, ast.Starred) for argument in node.args):
            return
        names = [part.partition(":")[0].partition("=")[0].strip() for part in expected]
        required = [
            name for name, part in zip(names, expected, strict=True) if "=" not in part.partition(":")[2] + part
        ]
        unknown = [keyword.arg for keyword in node.keywords if keyword.arg not in names]
        given = names[: len(node.args)] + [str(keyword.arg) for keyword in node.keywords]
        missing = [part for part in required if part not in given]
        if unknown or missing or len(node.args) > len(names):
            got = f"{len(node.args)} arguments" + (f" and {', '.join(map(str, unknown))}" if unknown else "")
            self.faults.append((node.lineno, f"{name} takes ({', '.join(expected)}), given {got}"))
