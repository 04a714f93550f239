"""What every method declares, written out, and what a wrong declaration is told."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from torch import Tensor, nn

from edgekd.distill.methods import METHODS, Method, kd
from edgekd.distill.methods.declare import about, method
from edgekd.distill.methods.options import Temperature

LOGITS, SEVERAL, FEATURES = "z_s z_t labels", "z_s z_ts labels", "f_s f_t"
DECLARED: dict[str, dict[str, Any]] = {
    "kd": {"needs": LOGITS, "options": "temperature standardize"},
    "mse": {"needs": LOGITS, "options": "standardize"},
    "bce": {"needs": LOGITS},
    "dkd": {"needs": LOGITS, "options": "temperature alpha beta standardize"},
    "dist": {"needs": LOGITS, "options": "temperature beta gamma standardize"},
    "nkd": {"needs": LOGITS, "options": "temperature gamma standardize"},
    "wsld": {"needs": LOGITS, "options": "temperature standardize"},
    "ctkd": {"needs": f"{LOGITS} epoch", "options": "start span warmup standardize"},
    "mlkd": {"needs": LOGITS, "options": "temperatures standardize"},
    "eb_kd": {"needs": SEVERAL, "options": "temperature"},
    "ca_mkd": {"needs": SEVERAL, "options": "temperature"},
    "lwf": {"needs": LOGITS, "options": "temperature", "old_classes": True},
    "adversarial": {"needs": "z_s z_t", "options": "hidden", "prepare": "z_s"},
    "mld": {"needs": LOGITS, "options": "temperature"},
    "teacher_bounded": {"needs": LOGITS, "options": "margin"},
    "cwd": {"needs": "m_s m_t", "options": "temperature"},
    "ifvd": {"needs": f"{FEATURES} mask"},
    "skd": {"needs": FEATURES, "options": "scale"},
    "fitnet": {"needs": FEATURES, "options": "attention", "prepare": FEATURES},
    "at": {"needs": FEATURES},
    "vid": {"needs": FEATURES, "options": "initial_variance eps", "prepare": FEATURES},
    "ab": {"needs": FEATURES, "options": "margin", "prepare": FEATURES},
    "ft": {"needs": FEATURES, "options": "k p1 p2 reconstruction", "prepare": FEATURES},
    "nst": {"needs": FEATURES, "options": "degree constant"},
    "fsp": {"needs": FEATURES, "prepare": FEATURES},
    "ofd": {"needs": FEATURES, "auto": "refused", "prepare": FEATURES},
    "reviewkd": {"needs": FEATURES, "prepare": FEATURES},
    "simkd": {"needs": FEATURES, "options": "factor", "auto": "last",
        "prepare": f"{FEATURES} teacher z_t", "deployed": True},
    "mgd": {"needs": FEATURES, "options": "mask", "auto": "last", "prepare": FEATURES},
    "srrl": {"needs": f"{FEATURES} z_t", "options": "alpha beta", "auto": "last", "prepare": f"{FEATURES} teacher z_t"},
    "adversarial_features": {"needs": FEATURES, "options": "hidden", "prepare": FEATURES},
    "rkd": {"needs": FEATURES, "options": "distance angle", "pooled": True, "auto": "last"},
    "sp": {"needs": FEATURES, "pooled": True, "auto": "last"},
    "cc": {"needs": FEATURES, "options": "gamma order", "pooled": True, "auto": "last"},
    "pkt": {"needs": FEATURES, "pooled": True, "auto": "last"},
    "irg": {"needs": FEATURES, "options": "vertex edge transform", "prepare": FEATURES},
    "crd": {"needs": f"{FEATURES} labels rows", "options": "dim negatives temperature momentum",
        "pooled": True, "auto": "last", "in_one_process": True, "prepare": f"{FEATURES} samples"},
    "dml": {"needs": "z_s labels arguments", "options": "students temperature seed", "prepare": "student"},
    "one": {"needs": "z_s labels f_s", "options": "branches temperature seed", "auto": "before_last",
        "prepare": "f_s student paths"},
    "byot": {"needs": "z_s labels f_s", "options": "labels logits features temperature", "prepare": "f_s classes"},
    "tf_kd": {"needs": "z_s labels", "options": "correct temperature"},
    "cs_kd": {"needs": "z_s labels", "options": "temperature", "pairs": True},
}  # fmt: skip
"""Methods in the order of METHODS; what is left out is no, none, or `auto` for all."""

ANY = {
    "mse", "adversarial", "fitnet", "at", "vid", "ab", "ft", "nst", "fsp", "ofd", "reviewkd", "simkd", "mgd", "srrl",
    "adversarial_features", "skd", "rkd", "sp", "cc", "pkt", "irg",
}  # fmt: skip
"""Methods for rows of classes, of labels and of values: they compare features, or logits as mere numbers."""
ROWS = {**{name: ("classes", "labels", "values") for name in ANY}, "mld": ("labels",), "teacher_bounded": ("values",)}
"""Every other method is for rows of classes alone: it has a softmax over them, or reads the class of a sample."""
PER_SAMPLE = {"mlkd", "simkd", "srrl", "crd", "dml", "one", "byot", "cs_kd"}


def said(record: Method) -> dict[str, Any]:
    """What differs from a method that declares nothing; names as one text."""
    names = {"needs": record.needs, "options": record.options, "prepare": record.prepare_needs}
    flags = {"pooled": record.pooled, "auto": record.auto, "pairs": record.pairs, "old_classes": record.old_classes}
    flags |= {"in_one_process": record.in_one_process, "deployed": record.deployed is not None}
    told = {**{key: " ".join(value) for key, value in names.items()}, **flags}
    return {key: value for key, value in told.items() if value and (key, value) != ("auto", "all")}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_declares_what_the_table_says(name: str) -> None:
    assert said(METHODS[name]) == DECLARED[name]
    assert METHODS[name].rows == ROWS.get(name, ("classes",))
    assert METHODS[name].per_sample == (name in PER_SAMPLE)


def test_the_table_holds_every_method_and_every_field() -> None:
    assert list(DECLARED) == list(METHODS)
    told = {"call", "needs", "options", "pooled", "auto", "pairs", "old_classes", "in_one_process", "deployed"}
    assert {field.name for field in fields(Method)} == told | {"rows", "per_sample", "prepare", "prepare_needs"}


def test_a_method_stays_the_function_that_it_is() -> None:
    assert METHODS["kd"] is about(kd) and METHODS["kd"].call is kd
    assert METHODS["kd"].options["temperature"].annotation == Temperature


def test_a_record_calls_what_the_class_defines() -> None:
    for name, record in METHODS.items():
        found = [getattr(record.call, key, None) for key in ("prepare", "deployed")]
        assert [record.prepare, record.deployed] == found, name


# Wrong declarations


def test_a_misspelt_declaration_is_refused() -> None:
    misspelt: dict[str, Any] = {"poled": True}
    with pytest.raises(TypeError, match="'poled'"):
        method(**misspelt)


class Prepared(nn.Module):
    def prepare(self, z_s: Tensor) -> None: ...

    def forward(self, z_s: Tensor) -> None: ...


class Deployed(nn.Module):
    def forward(self, z_s: Tensor) -> None: ...

    def deployed(self, student: nn.Module, path: str) -> None: ...


@pytest.mark.parametrize(
    ("declared", "kind", "told"),
    [
        ({}, Prepared, r"Prepared .*@method\(prepares=True\)"),
        ({}, Deployed, r"Deployed .*@method\(deploys=True\)"),
        ({"prepares": True}, Deployed, r"Deployed .*prepares=True .*no prepare\(\)"),
        ({"prepares": True, "deploys": True}, Prepared, r"Prepared .*deploys=True .*no deployed\(\)"),
    ],
)
def test_a_misspelt_prepare_or_deployed_is_refused(declared: dict[str, Any], kind: type[nn.Module], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        method(**declared)(kind)
    with pytest.raises(TypeError, match=r"write @method\(\)"):
        about(kind)
