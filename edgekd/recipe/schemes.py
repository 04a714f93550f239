"""`distill.scheme`: named defaults for the table [distill]. The recipe's own settings override them.

offline      a trained, frozen teacher, by its logits (Hinton et al. 2015)
born_again   the same, then the student teaches itself anew (Furlanello et al. 2018); see `generations`
dml          a peer learns beside the student, each from the other (Zhang et al. 2018)
one          branches of the student, gated, teach each of them (Zhu et al. 2018)
byot         the student's deepest layer teaches heads on its inner ones (Zhang et al. 2019)
tf_kd        a virtual teacher that is nearly sure of the label (Yuan et al. 2020)
cs_kd        another sample of the same class (Yun et al. 2020)
adversarial  `kd`, and a discriminator between the teacher's and the student's logits
lifelong     the teacher knows the first classes only; the student keeps its answers there and learns the others (LwF)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "offline": {},
    "born_again": {"generations": 1},
    "dml": {"label_weight": 1.0, "losses": [{"method": "dml"}]},
    "one": {"label_weight": 1.0, "losses": [{"method": "one", "layers": "auto"}]},
    "byot": {"label_weight": 0.7, "losses": [{"method": "byot", "layers": "auto"}]},
    "tf_kd": {"label_weight": 0.1, "losses": [{"method": "tf_kd", "weight": 0.9}]},
    "cs_kd": {"label_weight": 1.0, "losses": [{"method": "cs_kd"}]},
    "adversarial": {
        "losses": [{"method": "kd", "weight": 0.9}, {"method": "adversarial", "weight": 0.1, "warmup_epochs": 1.0}]
    },
    "lifelong": {"label_weight": 1.0, "losses": [{"method": "lwf"}]},
}

# Those that need no [teacher] in the recipe: the student, or a peer of it, teaches.
TEACHERLESS = ("tf_kd", "cs_kd", "byot", "dml", "one", "born_again")

# Schemes of the literature that a recipe states with other settings.
ELSEWHERE = {
    "online": 'scheme = "dml" or "one"',
    "self": 'scheme = "byot", "born_again", "tf_kd" or "cs_kd"',
    "cross_modal": 'teacher.column = "..." (the column that the teacher sees)',
    "data_free": 'data.train = "synthetic:deep_inversion" (or dafl, dfq)',
    "multi_teacher": "teacher.also = [{ model = ... }]",
    "assistant": "student.assistants = [{ model = ... }]",
    "multi_task": "[[tasks]]",
}


def with_scheme(document: dict[str, Any]) -> dict[str, Any]:
    """A recipe's document with the defaults of its scheme. The recipe's check refuses an unknown scheme."""
    distill = document.get("distill")
    if not isinstance(distill, dict) or not isinstance(distill.get("scheme"), str):
        return document
    return {**document, "distill": {**SCHEMES.get(distill["scheme"], {}), **distill}}
