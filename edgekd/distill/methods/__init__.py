"""Distillation methods: a file for each, usable in any training loop.

A method is a function, or an `nn.Module` if it has weights of its own. Its hyper-parameters are keyword-only: the
signature is the schema of the configuration. All methods compute in float32 also under autocast (precision.py), and none
lets a gradient reach the teacher. Whole networks that a method trains beside the student (peers, branches, fusions) run
in the student's precision. `METHODS` maps names to records (declare.py); a record's `call` is the function or class.

A method's positional arguments name its inputs, which the trainer passes:

    z_s, z_t    logits `[batch, classes]` of student and teacher
    z_ts        logits of all teachers, `[teachers, batch, classes]`
    labels      int64 `[batch]`; with mix-up the class of the larger share. Of labels or values: floats `[batch, labels]`
    m_s, m_t    maps of logits `[batch, classes, h, w]` of student and teacher, for tasks whose answers are maps
    mask        int64 `[batch, h, w]`, the class of each position of a map, -1 where it does not count
    f_s, f_t    lists of features, an entry for each of the recipe's `layers`
    arguments   what the student read, a tuple of tensors `[batch, ...]`
    rows        int64 `[batch]`, each sample's number among the training samples, 0 to samples - 1
    epoch       float, counting steps as fractions

`@method(...)` stands above every method, and its keywords declare further needs:

    rows=ROWS               what a row of logits may hold (below); default: ("classes",)
    per_sample=True         a row of logits must be a whole sample, not a position of a map
    pooled=True             features `[batch, channels]` are enough, so that they can be read from the cache
    auto="last"             `layers = "auto"` gives the deepest pair ("before_last": the pair before the deepest; "refused":
                            the user must name layers; default: all pairs, or with pooled=True the deepest)
    pairs=True              the second half of a batch holds a sample of the same class for each sample of the first half
    old_classes=True        the teacher may know the first classes only
    in_one_process=True     the method keeps a memory of samples, which several processes would not share
    prepares=True           the method has `prepare(...)`
    deploys=True            the method has `deployed(student, path)`, which gives the model that ships instead of the student

A task's logits come to a method as rows, z_s, z_t: a row for each sample, or for each position of a map. `rows` names the
kinds of rows for which the method makes sense:

    "classes"   one softmax over classes, of which one is right: methods with a softmax or with a class as label
    "labels"    a sigmoid for each label: any number of them are right
    "values"    real values, as a regression gives them

`ROWS` are all three: the method reads features alone, or compares logits as mere numbers. A method of pairs, of a memory
of samples, or with networks or heads of its own has rows that are whole samples, `per_sample`.

`prepare(...)` makes weights in the sizes of the features. The trainer calls it once before it makes the optimizer: in
eval mode, without gradients, on one batch. In your own loop do the same, or the optimizer will not know these weights.
`prepare` may ask by name for the arguments above and for these: `student`, `teacher` (the live modules), `paths` (the
student's paths of `layers`), `classes` and `samples` (numbers).
"""

from collections.abc import Callable
from typing import Any

from edgekd.distill.methods.ab import AB
from edgekd.distill.methods.adversarial import Adversarial
from edgekd.distill.methods.adversarial_features import AdversarialFeatures
from edgekd.distill.methods.at import at
from edgekd.distill.methods.bce import bce
from edgekd.distill.methods.byot import BYOT
from edgekd.distill.methods.ca_mkd import ca_mkd
from edgekd.distill.methods.cc import cc
from edgekd.distill.methods.crd import CRD
from edgekd.distill.methods.cs_kd import cs_kd
from edgekd.distill.methods.ctkd import CTKD
from edgekd.distill.methods.cwd import cwd
from edgekd.distill.methods.declare import Method, about
from edgekd.distill.methods.dist import dist
from edgekd.distill.methods.dkd import dkd
from edgekd.distill.methods.dml import DML
from edgekd.distill.methods.eb_kd import eb_kd
from edgekd.distill.methods.fitnet import FitNet
from edgekd.distill.methods.fsp import FSP
from edgekd.distill.methods.ft import FT
from edgekd.distill.methods.ifvd import ifvd
from edgekd.distill.methods.irg import IRG
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.lwf import lwf
from edgekd.distill.methods.mgd import MGD
from edgekd.distill.methods.mld import mld
from edgekd.distill.methods.mlkd import mlkd
from edgekd.distill.methods.mse import mse
from edgekd.distill.methods.nkd import nkd
from edgekd.distill.methods.nst import nst
from edgekd.distill.methods.ofd import OFD
from edgekd.distill.methods.one import ONE
from edgekd.distill.methods.pkt import pkt
from edgekd.distill.methods.reviewkd import ReviewKD
from edgekd.distill.methods.rkd import rkd
from edgekd.distill.methods.simkd import SimKD
from edgekd.distill.methods.skd import skd
from edgekd.distill.methods.sp import sp
from edgekd.distill.methods.srrl import SRRL
from edgekd.distill.methods.standardize import standardized
from edgekd.distill.methods.teacher_bounded import teacher_bounded
from edgekd.distill.methods.tf_kd import tf_kd
from edgekd.distill.methods.vid import VID
from edgekd.distill.methods.wsld import wsld

_CALLS: dict[str, Callable[..., Any]] = {
    # logits
    "kd": kd, "mse": mse, "bce": bce, "dkd": dkd, "dist": dist, "nkd": nkd, "wsld": wsld,
    "ctkd": CTKD, "mlkd": mlkd, "eb_kd": eb_kd, "ca_mkd": ca_mkd, "lwf": lwf, "adversarial": Adversarial,
    # logits of labels, of values
    "mld": mld, "teacher_bounded": teacher_bounded,
    # maps: logits or features of each position
    "cwd": cwd, "ifvd": ifvd, "skd": skd,
    # feature maps
    "fitnet": FitNet, "at": at, "vid": VID, "ab": AB, "ft": FT, "nst": nst, "fsp": FSP, "ofd": OFD,
    "reviewkd": ReviewKD, "simkd": SimKD, "mgd": MGD, "srrl": SRRL,
    "adversarial_features": AdversarialFeatures,
    # relations between samples, contrast
    "rkd": rkd, "sp": sp, "cc": cc, "pkt": pkt, "irg": IRG, "crd": CRD,
    # no teacher: peers, branches, the network itself
    "dml": DML, "one": ONE, "byot": BYOT, "tf_kd": tf_kd, "cs_kd": cs_kd,
}  # fmt: skip

METHODS: dict[str, Method] = {name: about(call) for name, call in _CALLS.items()}

__all__ = [
    "AB",
    "BYOT",
    "CRD",
    "CTKD",
    "DML",
    "FSP",
    "FT",
    "IRG",
    "METHODS",
    "MGD",
    "OFD",
    "ONE",
    "SRRL",
    "VID",
    "Adversarial",
    "AdversarialFeatures",
    "FitNet",
    "Method",
    "ReviewKD",
    "SimKD",
    "at",
    "bce",
    "ca_mkd",
    "cc",
    "cs_kd",
    "cwd",
    "dist",
    "dkd",
    "eb_kd",
    "ifvd",
    "kd",
    "lwf",
    "mld",
    "mlkd",
    "mse",
    "nkd",
    "nst",
    "pkt",
    "rkd",
    "skd",
    "sp",
    "standardized",
    "teacher_bounded",
    "tf_kd",
    "wsld",
]
