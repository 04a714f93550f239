"""What each key of a recipe, and each file that it names, decides: a change makes exactly the stages anew that depend on it.

The table is written by hand from what the stages are for. The keys are those of the real flow; nothing is trained: a stage's
output is a stand-in that has what the flow itself reads of it, and the checks before training, which make no key, are left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from PIL import Image
from pydantic import BaseModel

from edgekd import pipeline
from edgekd.cache.stage import Artifact, Cache
from edgekd.check import preflight
from edgekd.data import decode, decode_test
from edgekd.models import load_model
from edgekd.models.accelerator import uses_bf16
from edgekd.pipeline import build
from edgekd.recipe import Model, Recipe, Section, load_recipe
from edgekd.recipe.losses import Loss
from edgekd.target import load_target
from tests.builders.sounds import tone, write_wav

NET = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import torch
from torch import nn
from strides_of_mine import STRIDE
class Net(nn.Module):
    def __init__(self, num_classes, in_channels, width):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, STRIDE)
        self.fc = nn.Linear(width, num_classes)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
def make(num_classes, in_channels, width=4):
    torch.manual_seed(0)
    return Net(num_classes, in_channels, width)
def other(num_classes, in_channels, width=4):
    return make(num_classes, in_channels, width)
"""
BASE = """
name = "keys"
[data]
train = "train*.parquet"
test = "test.parquet"
holdout = 0.2
[teacher]
model = "python:net.py:make"
train_epochs = 1
[student]
model = "python:net.py:make"
[distill]
epochs = 4
batch_size = 16
views = 2
losses = [{ method = "kd", weight = 0.9 }]
"""
LOSSES = """
def mine(z_s, z_t, *, power=2.0):
    return ((z_s - z_t).abs() ** power).mean()

def other(z_s, z_t):
    return (z_s - z_t).abs().mean()
"""
# each shows keys that need company: a recipe's name -> overrides
RECIPES = {
    "plain": [],
    "given": ["teacher.train_epochs=0", "teacher.weights=teacher.safetensors", "student.weights=student.safetensors"],
    "topk": ["distill.cache=topk", "distill.top_k=2"],
    "qat": ["quantize.mode=qat"],
    "auto": ["quantize.mode=auto", "budget.max_drop_from_fp32=0"],
    "tempered": ['distill.losses=[{method="kd", temperature="auto"}]'],
    "begun": ['student.init={how="copy", layers={conv="conv"}}'],
    "features": ['distill.losses=[{method="kd"}, {method="sp", layers={conv="conv"}}]'],
    "own_loss": ['distill.losses=[{method="python:losses.py:mine"}]'],
    "tasks": [
        "teacher.train_epochs=0",
        'tasks=[{name="second", label="second", teacher={model="python:net.py:make"}}]',
    ],
    "mask_beside": [
        "teacher.train_epochs=0",
        'tasks=[{name="second", label="mask", task={kind="segment", classes=["sky", "sea", "land"]}, teacher={model="python:net.py:make"}}]',
    ],
    "more": ['teacher.also=[{model="python:net.py:make", args={width=6}}]', 'distill.losses=[{method="eb_kd"}]'],
    "chain": ['student.assistants=[{model="python:net.py:make", args={width=6}}]'],
    "synthetic": ["data.train=synthetic:deep_inversion", "teacher.train_epochs=0"],
    "sounds": [
        "data.input=audio",
        "data.train=sounds.parquet",
        "data.test=sounds.parquet",
        "data.sample_rate=800",
        "data.n_fft=64",
        "data.hop_length=32",
        "data.n_mels=8",
        "data.resample=true",
        "data.augment.noise=noise.wav",
    ],
    "masks": ["data.label=mask", "task.kind=segment", 'task.classes=["sky", "sea", "land"]'],
    "shared": ["data.test=0.4"],
    "rows": [
        "data.input=table",
        "data.train=rows.parquet",
        "data.test=rows.parquet",
        'data.drop=["second"]',
        "teacher.train_epochs=0",
        "data.augment.noise=0.1",
    ],
}
# what each stage reads of other stages, by itself; what they read in turn follows
READS = {
    "decode": (),
    "rehearse": (),
    "synthesize": (),
    "train_teacher": ("decode",),
    "decode_test": ("decode", "synthesize"),
    "score_teacher": ("decode_test", "train_teacher"),
    "record_teacher": ("decode", "synthesize", "train_teacher"),
    "record_features": ("decode", "synthesize", "train_teacher"),
    "choose_temperature": ("record_teacher", "record_features"),
    "distill": ("record_teacher", "record_features"),
    "export_fp32": ("distill",),
    "export_fp16": ("export_fp32",),
    "export_bf16": ("distill",),
    "record_activations": ("distill",),
    "score_holdout": ("distill", "quantize", "train_quantized"),
    "measure_sensitivity": ("record_activations",),
    "quantize": ("record_activations",),
    "train_quantized": ("record_activations", "record_teacher"),
    "export_int8": ("quantize", "train_quantized"),
    "score": ("decode_test", "export_fp32", "export_fp16", "export_bf16", "export_int8"),
    "score_quantized": ("decode_test", "export_int8"),
}
OTHER_PRECISION = "fp32" if uses_bf16("auto") else "bf16"
TEACHES = ("train_teacher", "record_teacher", "record_features", "score_teacher")
RECORDS = ("record_teacher", "record_features")
EXPORTS = ("rehearse", "export_fp32", "export_fp16", "export_bf16", "export_int8")
LEARNS = ("choose_temperature", "distill", "train_quantized")
STUDENTS = ("rehearse", *LEARNS)
VIEWS = ("train_teacher", *RECORDS, *LEARNS)  # read augmented samples, or the split of train
SPECTRA = (*VIEWS, "rehearse", "score_teacher")
NOTHING: tuple[str, ...] = ()
Row = tuple[str, str, tuple[str, ...]]  # which recipe, the override, the stages that read the key themselves

TABLE: dict[str, list[Row]] = {
    "name": [("plain", "name=other", NOTHING)],
    "data.train": [("plain", "data.train=again.parquet", ("decode", "rehearse")), ("synthetic", "data.train=synthetic:dafl", ("synthesize",))],
    "data.test": [("plain", "data.test=again.parquet", ("decode_test",)), ("synthetic", "data.test=again.parquet", ("decode", "rehearse")),
        ("shared", "data.test=0.5", ("decode", "decode_test", "rehearse"))],
    "data.test_seed": [("shared", "data.test_seed=1", ("decode", "decode_test", "rehearse")), ("plain", "data.test_seed=1", NOTHING)],
    "data.classes": [("plain", 'data.classes=["sky", "sea", "land"]', ("decode", "rehearse"))],
    "data.column": [("plain", "data.column=other", ("decode", "rehearse"))],
    "data.input": [],  # which keys there are; of one file no two kinds can be read
    "data.sample_rate": [("sounds", "data.sample_rate=810", ("decode", "rehearse"))],
    "data.seconds": [("sounds", "data.seconds=0.5", ("decode", "rehearse"))],
    "data.resample": [("sounds", "data.resample=false", ("decode", "rehearse"))],
    "data.mono": [("sounds", "data.mono=left", ("decode", "rehearse"))],
    "data.n_fft": [("sounds", "data.n_fft=80", SPECTRA)],
    "data.hop_length": [("sounds", "data.hop_length=16", SPECTRA)],
    "data.n_mels": [("sounds", "data.n_mels=9", SPECTRA)],
    "data.f_min": [("sounds", "data.f_min=30.0", SPECTRA)],
    "data.f_max": [("sounds", "data.f_max=390.0", SPECTRA)],
    "data.n_mfcc": [("sounds", "data.n_mfcc=5", SPECTRA)],
    "data.augment.speed": [("sounds", "data.augment.speed=0.1", VIEWS)],
    "data.augment.shift_ms": [("sounds", "data.augment.shift_ms=2", VIEWS)],
    "data.augment.gain_db": [("sounds", "data.augment.gain_db=3", VIEWS)],
    "data.augment.noise": [("sounds", "data.augment.noise=more_noise.wav", VIEWS), ("rows", "data.augment.noise=0.2", VIEWS)],
    "data.augment.noise_snr_db": [("sounds", "data.augment.noise_snr_db=[1.0, 2.0]", VIEWS)],
    "data.numbers": [("rows", 'data.numbers=["width"]', ("decode", "rehearse"))],
    "data.categories": [("rows", 'data.categories=["width"]', ("decode", "rehearse"))],
    "data.dates": [("rows", 'data.dates=["day"]', ("decode", "rehearse"))],
    "data.drop": [("rows", 'data.drop=["second", "width"]', ("decode", "rehearse"))],
    "data.missing": [("rows", 'data.missing=["red"]', ("decode", "rehearse"))],
    "data.min_rows": [("rows", "data.min_rows=2", ("decode", "rehearse"))],
    "data.impute": [("rows", "data.impute=mean", SPECTRA)],
    "data.augment.swap": [("rows", "data.augment.swap=0.1", VIEWS)],
    "teacher.raw": [("rows", "teacher.raw=true", ("record_teacher", "record_features", "score_teacher"))],
    "data.augment.time_mask": [("sounds", "data.augment.time_mask=2", VIEWS)],
    "data.augment.freq_mask": [("sounds", "data.augment.freq_mask=2", VIEWS)],
    "task.kind": [],  # which keys there are; the labels of one kind are none of another
    "task.classes": [("masks", 'task.classes=["sky", "sea", "shore"]', ("decode", "rehearse"))],
    "task.ignore_index": [("masks", "task.ignore_index=9", ("decode", "rehearse"))],
    "task.class_weights": [("masks", "task.class_weights=[1.0, 2.0, 3.0]", VIEWS)],
    "task.stride": [("masks", "task.stride=2", VIEWS)],
    "data.label": [("plain", "data.label=second", ("decode", "rehearse"))],
    "data.size": [("plain", "data.size=[7, 7]", ("decode", "rehearse"))],
    "data.channels": [("plain", "data.channels=1", ("decode", "rehearse"))],
    "data.on_error": [("plain", "data.on_error=skip", ("decode", "rehearse"))],
    "data.store_gb": [("plain", "data.store_gb=1", NOTHING)],
    "data.holdout": [("plain", "data.holdout=0.3", VIEWS), ("given", "data.holdout=0.3", VIEWS)],
    "data.mean": [("plain", "data.mean=[0.4, 0.4, 0.4]", (*VIEWS, "rehearse", "score_teacher"))],
    "data.std": [("given", "data.std=[0.4, 0.4, 0.4]", (*VIEWS, "rehearse", "score_teacher"))],
    "data.seed": [("given", "data.seed=3", VIEWS)],
    "data.augment.crop_padding": [("given", "data.augment.crop_padding=1", VIEWS)],
    "data.augment.flip": [("plain", "data.augment.flip=true", VIEWS)],
    "data.augment.jitter": [("given", "data.augment.jitter=0.2", VIEWS)],
    "data.augment.cutout": [("given", "data.augment.cutout=2", VIEWS)],
    "data.augment.fill": [("given", "data.augment.fill=[0.1, 0.1, 0.1]", VIEWS)],
    "data.augment.mixup": [("given", "data.augment.mixup=0.2", VIEWS)],
    "data.synthetic.samples": [("synthetic", "data.synthetic.samples=9", ("synthesize",)), ("plain", "data.synthetic.samples=9", NOTHING)],
    "data.synthetic.steps": [("synthetic", "data.synthetic.steps=9", ("synthesize",)), ("plain", "data.synthetic.steps=9", NOTHING)],
    "data.synthetic.batch": [("synthetic", "data.synthetic.batch=9", ("synthesize",)), ("given", "data.synthetic.batch=9", NOTHING)],
    "teacher.model": [("plain", "teacher.model=python:net.py:other", TEACHES), ("begun", "teacher.model=python:net.py:other", TEACHES)],
    "teacher.weights": [("given", "teacher.weights=other.safetensors", TEACHES)],
    "teacher.args": [("plain", "teacher.args.width=8", TEACHES)],
    "teacher.train_epochs": [("plain", "teacher.train_epochs=2", TEACHES)],
    "teacher.outputs": [("given", "teacher.outputs=logits", TEACHES)],
    "teacher.classes": [("given", 'teacher.classes=["1", "0", "2"]', TEACHES)],
    "teacher.size": [("given", "teacher.size=[9, 9]", TEACHES)],
    "teacher.also.outputs": [("more", 'teacher.also=[{model="python:net.py:make", args={width=6}, outputs="logits"}]', RECORDS)],
    "teacher.also.classes": [("more", 'teacher.also=[{model="python:net.py:make", args={width=6}, classes=["1", "0", "2"]}]', RECORDS)],
    "teacher.also.size": [("more", 'teacher.also=[{model="python:net.py:make", args={width=6}, size=[9, 9]}]', RECORDS)],
    "tasks.teacher.outputs": [
        ("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:make", outputs="logits"}}]', TEACHES[1:])
    ],
    "tasks.teacher.classes": [
        ("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:make", classes=["1", "0", "2"]}}]', TEACHES[1:])
    ],
    "tasks.teacher.size": [("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:make", size=[9, 9]}}]', TEACHES[1:])],
    "teacher.also.model": [("more", 'teacher.also=[{model="python:net.py:other", args={width=6}}]', RECORDS)],
    "teacher.also.weights": [("more", 'teacher.also=[{model="python:net.py:make", args={width=4}, weights="other.safetensors"}]', RECORDS)],
    "teacher.also.args": [("more", 'teacher.also=[{model="python:net.py:make", args={width=7}}]', RECORDS)],
    "teacher.column": [("plain", "teacher.column=other", ("decode",))],
    "teacher.mean": [("given", "teacher.mean=[0.4, 0.4, 0.4]", ("record_teacher", "record_features", "score_teacher"))],
    "teacher.std": [("given", "teacher.std=[0.4, 0.4, 0.4]", ("record_teacher", "record_features", "score_teacher"))],
    "student.model": [("plain", "student.model=python:net.py:other", STUDENTS)],
    "student.weights": [("given", "student.weights=other.safetensors", LEARNS)],
    "student.args": [("tempered", "student.args.width=8", STUDENTS)],
    "student.assistants.model": [("chain", 'student.assistants=[{model="python:net.py:other", args={width=6}}]', ("distill",))],
    "student.assistants.weights": [
        ("chain", 'student.assistants=[{model="python:net.py:make", args={width=4}, weights="other.safetensors"}]', ("distill",))
    ],
    "student.assistants.args": [("chain", 'student.assistants=[{model="python:net.py:make", args={width=7}}]', ("distill",))],
    "student.init.how": [("begun", 'student.init={how="slice"}', LEARNS)],
    "student.init.layers": [("begun", 'student.init={how="copy", layers={fc="fc"}}', LEARNS)],
    "student.init.noise": [("begun", 'student.init={how="copy", layers={conv="conv"}, noise=0.1}', LEARNS)],
    "student.init.source.model": [
        ("begun", 'student.init={how="copy", layers={conv="conv"}, source={model="python:net.py:make"}}', LEARNS)
    ],
    "student.init.source.weights": [
        ("begun", 'student.init={how="copy", layers={conv="conv"}, source={model="python:net.py:make", weights="other.safetensors"}}', LEARNS)
    ],
    "student.init.source.args": [
        ("begun", 'student.init={how="copy", layers={conv="conv"}, source={model="python:net.py:make", args={width=4}}}', LEARNS)
    ],
    "tasks.name": [("tasks", 'tasks=[{name="third", label="second", teacher={model="python:net.py:make"}}]', STUDENTS)],
    "tasks.label": [("tasks", 'tasks=[{name="second", label="label", teacher={model="python:net.py:make"}}]', ("decode",))],
    "tasks.task.kind": [],  # the labels of one kind are none of another
    "tasks.task.classes": [("mask_beside", 'tasks.0.task.classes=["sky", "sea", "shore"]', ("decode",))],
    "tasks.task.ignore_index": [("mask_beside", "tasks.0.task.ignore_index=9", ("decode",))],
    "tasks.task.class_weights": [("mask_beside", "tasks.0.task.class_weights=[1.0, 2.0, 3.0]", VIEWS)],
    "tasks.task.stride": [("mask_beside", "tasks.0.task.stride=2", VIEWS)],
    "tasks.weight": [("tasks", 'tasks=[{name="second", label="second", weight=2.0, teacher={model="python:net.py:make"}}]', LEARNS)],
    "tasks.teacher.model": [("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:other"}}]', TEACHES[1:])],
    "tasks.teacher.weights": [
        ("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:make", weights="other.safetensors"}}]', TEACHES[1:])
    ],
    "tasks.teacher.args": [("tasks", 'tasks=[{name="second", label="second", teacher={model="python:net.py:make", args={width=6}}}]', TEACHES[1:])],
    "distill.epochs": [("tempered", "distill.epochs=5", LEARNS)],
    "distill.keep": [("plain", "distill.keep=best", LEARNS)],
    "distill.patience": [("plain", "distill.patience=2", LEARNS)],
    "distill.class_weights": [("qat", "distill.class_weights=balanced", LEARNS), ("plain", "distill.class_weights=[1.0, 2.0, 3.0]", LEARNS)],
    "distill.sampling": [("qat", "distill.sampling=balanced", LEARNS)],
    "distill.batch_size": [("qat", "distill.batch_size=8", LEARNS)],
    "distill.views": [("features", "distill.views=3", (*RECORDS, *LEARNS))],
    "distill.cache": [("plain", "distill.cache=int8", ("record_teacher",)), ("features", "distill.cache=int8", ("record_teacher",))],
    "distill.top_k": [("topk", "distill.top_k=1", ("record_teacher",)), ("plain", "distill.top_k=1", NOTHING)],
    "distill.label_weight": [("qat", "distill.label_weight=0.3", LEARNS)],
    "distill.losses.method": [
        ("plain", 'distill.losses=[{method="dkd", weight=0.9}]', LEARNS),
        ("own_loss", 'distill.losses=[{method="python:losses.py:other"}]', LEARNS),
        ("own_loss", 'distill.losses=[{method="python:losses.py:mine", power=3.0}]', LEARNS),
    ],
    "distill.losses.weight": [("plain", 'distill.losses=[{method="kd", weight=0.8}]', LEARNS)],
    "distill.losses.warmup_epochs": [("plain", 'distill.losses=[{method="kd", weight=0.9, warmup_epochs=1}]', LEARNS)],
    "distill.losses.until_epoch": [("plain", 'distill.losses=[{method="kd", weight=0.9, until_epoch=2}]', LEARNS)],
    "distill.losses.layout": [
        ("features", 'distill.losses=[{method="kd"}, {method="sp", layers={conv="conv"}, layout="tokens"}]', ("record_features", *LEARNS))
    ],
    "distill.losses.layers": [("features", 'distill.losses=[{method="kd"}, {method="sp", layers={fc="conv"}}]', LEARNS)],
    "distill.optimizer.name": [("tempered", "distill.optimizer.name=adamw", LEARNS)],
    "distill.optimizer.lr": [("plain", "distill.optimizer.lr=0.2", LEARNS)],
    "distill.optimizer.momentum": [("plain", "distill.optimizer.momentum=0.8", LEARNS)],
    "distill.optimizer.weight_decay": [("plain", "distill.optimizer.weight_decay=0.1", LEARNS)],
    "distill.warmup_epochs": [("plain", "distill.warmup_epochs=2", LEARNS)],
    "distill.ema": [("plain", "distill.ema=0.9", LEARNS)],
    "distill.precision": [("plain", f"distill.precision={OTHER_PRECISION}", (*RECORDS, *LEARNS))],
    "distill.seed": [("tempered", "distill.seed=2", LEARNS)],
    "distill.tensorboard": [("plain", "distill.tensorboard=true", NOTHING)],
    "distill.scheme": [("plain", "distill.scheme=born_again", ("distill", "record_teacher"))],
    "distill.generations": [("plain", "distill.generations=1", ("distill", "record_teacher"))],
    "quantize.mode": [("plain", "quantize.mode=qat", ("rehearse", "train_quantized")), ("plain", "quantize.mode=none", ("rehearse",))],
    "quantize.epochs": [("qat", "quantize.epochs=5", ("train_quantized",)), ("plain", "quantize.epochs=5", NOTHING)],
    "quantize.lr": [("qat", "quantize.lr=0.01", ("train_quantized",)), ("plain", "quantize.lr=0.01", NOTHING)],
    "quantize.calibration": [("plain", "quantize.calibration=minmax", ("quantize",)),
        ("auto", "quantize.calibration=minmax", ("quantize", "train_quantized", "measure_sensitivity"))],
    "quantize.calibration_samples": [("plain", "quantize.calibration_samples=5", ("record_activations",))],
    "quantize.refine": [("plain", 'quantize.refine=["bias_correction"]', ("quantize",)),
        ("plain", 'quantize.refine=["cle"]', ("record_activations",))],
    "quantize.keep_float": [("plain", 'quantize.keep_float=["first"]', ("rehearse", "record_activations"))],
    "export.opset": [("plain", "export.opset=20", EXPORTS)],
    "export.batch": [("plain", "export.batch=1", EXPORTS)],
    "export.preprocess": [("plain", "export.preprocess=false", EXPORTS)],
    "export.output": [("plain", "export.output=probabilities", EXPORTS)],
    "budget.min_accuracy": [("plain", "budget.min_accuracy=1", NOTHING)],
    "budget.max_drop_from_teacher": [("plain", "budget.max_drop_from_teacher=1", NOTHING)],
    "budget.max_drop_from_fp32": [("auto", "budget.max_drop_from_fp32=9", NOTHING), ("plain", "budget.max_drop_from_fp32=9", NOTHING)],
    "budget.above_majority": [("plain", "budget.above_majority=false", NOTHING)],
    "budget.max_class_drop": [("plain", "budget.max_class_drop=50", NOTHING)],
    "budget.p90_latency_ms": [("plain", "budget.p90_latency_ms=1", NOTHING)],
    "budget.size_mb": [("plain", "budget.size_mb=1", NOTHING)],
}  # fmt: skip
FILES: list[Row] = [
    ("plain", "train.parquet", ("decode", "rehearse")),
    ("plain", "test.parquet", ("decode_test",)),
    ("plain", "net.py", (*TEACHES, *STUDENTS)),
    ("given", "strides_of_mine.py", (*TEACHES, *STUDENTS)),
    ("given", "teacher.safetensors", TEACHES),
    ("given", "student.safetensors", LEARNS),
    ("plain", "other.safetensors", NOTHING),
    ("own_loss", "losses.py", LEARNS),
    ("plain", "losses.py", NOTHING),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the recipes name."""
    place = tmp_path_factory.mktemp("keys")
    (place / "net.py").write_text(NET)
    (place / "strides_of_mine.py").write_text("STRIDE = 1\n")
    (place / "losses.py").write_text(LOSSES)
    (place / "edgekd.toml").write_text(BASE)
    for seed, name in enumerate(("train", "test", "again")):
        pq.write_table(table(seed), place / f"{name}.parquet")
    pq.write_table(sounds(), place / "sounds.parquet")
    pq.write_table(of_columns(), place / "rows.parquet")
    write_wav(place / "noise.wav", tone(90, 800, 1))
    write_wav(place / "more_noise.wav", tone(90, 800, 2))
    for name in ("teacher", "student", "other"):
        model = load_model(Model(model=f"python:{place}/net.py:make"), num_classes=3, in_channels=3)
        safetensors.torch.save_file(
            {**model.state_dict(), "fc.bias": model.fc.bias + len(name)}, place / f"{name}.safetensors"
        )
    return place


def table(seed: int) -> pa.Table:
    """Pictures of noise in two columns, three classes, and three in another column."""
    draw = np.random.default_rng(seed)

    def picture() -> dict[str, bytes]:
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "png")
        return {"bytes": file.getvalue()}

    def mask() -> dict[str, bytes]:
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 3, (8, 8), np.uint8)).save(file, "png")
        return {"bytes": file.getvalue()}

    rows = range(30)
    return pa.table(
        {
            "image": [picture() for _ in rows],
            "other": [picture() for _ in rows],
            "label": [row % 3 for row in rows],
            "second": [row // 10 for row in rows],
            "mask": [mask() for _ in rows],
        }
    )


def sounds() -> pa.Table:
    """Tones of 800 samples at 800 Hz, three classes."""

    def sound(hertz: float, seed: int) -> dict[str, bytes]:
        with NamedTemporaryFile(suffix=".wav") as file:
            return {"bytes": write_wav(Path(file.name), tone(hertz, 800, seed), rate=800).read_bytes()}

    return pa.table({"audio": [sound(400 + 900 * (i % 3), i) for i in range(30)], "label": [i % 3 for i in range(30)]})


def of_columns() -> pa.Table:
    """Rows of numbers, a category and a date, three classes."""
    numbers = range(30)
    return pa.table(
        {
            "width": [i % 7 for i in numbers],
            "colour": [("red", "green", None)[i % 3] for i in numbers],
            "day": [f"2026-11-{i + 1:02}" for i in numbers],
            "label": [i % 3 for i in numbers],
            "second": [i // 10 for i in numbers],
        }
    )


class Ended(Exception):
    """The last stage was asked for."""


class Keys(Cache):
    """Notes the stages' keys; decodes, and gives a stand-in for what any other stage would have made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys: dict[str, set[str]] = {}
        self.decodes = False

    def __call__(self, function: Callable[..., None], *inputs: Any) -> Artifact:
        name, key = function.__name__, self.key(function, *inputs)
        self.keys.setdefault(name, set()).add(key)
        if function in (decode, decode_test):
            self.decodes = True
            artifact = self._get(function, inputs)
            self.decodes = False
            if function is decode:
                self.tested = artifact.folder
            return artifact
        place = self.folder / f"stand-in-{key[:20]}"
        place.mkdir(exist_ok=True)
        if name == "synthesize":
            place = self.tested
        elif name == "train_teacher":
            safetensors.torch.save_file(
                load_model(inputs[1], num_classes=3, in_channels=3).state_dict(), place / "student.safetensors"
            )
        for file, content in {
            "temperature.json": {"best": 2.0}, "refused.json": [], "in_float.json": [], "sensitivity.json": [],
            "holdout.json": {"value": 50 if inputs[1] is None else 30},
        }.items():  # fmt: skip
            (place / file).write_text(json.dumps(content))
        return Artifact(name, key, place, 0.0, True, lambda: self(function, *inputs))

    def intact(self, artifact: Artifact) -> Artifact:
        if not self.decodes:
            raise Ended
        return artifact


def keys_of(folder: Path, recipe: str, *overrides: str) -> dict[str, set[str]]:
    """The keys of all stages, by the stage's name."""
    with Keys(folder / "cache") as run, pytest.MonkeyPatch.context() as patch, pytest.raises(Ended):
        patch.chdir(folder)  # where an override's paths begin
        opened = load_recipe(folder, [*RECIPES[recipe], *overrides]).located()
        patch.setattr(preflight, "check_models", lambda recipe, *rest: recipe.distill.losses)
        patch.setattr(pipeline, "check_teachers", lambda *given: None)
        build(opened, load_target("jetson-thor"), run, folder / "build", lambda question: True)
    return run.keys


@pytest.fixture(scope="module")
def base(folder: Path) -> Callable[[str], dict[str, set[str]]]:
    known: dict[str, dict[str, set[str]]] = {}

    def of(recipe: str) -> dict[str, set[str]]:
        if recipe not in known:
            known[recipe] = keys_of(folder, recipe)
        return known[recipe]

    return of


def follow(direct: tuple[str, ...], recipe: str, present: set[str]) -> set[str]:
    """Of the stages that are `present`, these and all that read what they made."""
    found = set(direct) & present
    # of a data-free build the test split alone is decoded: images are made of its shape and classes, and learnt from those
    made = {"record_teacher": ("synthesize",)} if recipe == "synthetic" else {}
    reads = READS | made | ({"record_teacher": ("distill", *READS["record_teacher"])} if recipe == "chain" else {})
    while more := {name for name in present if found & set(reads[name])} - found:
        found |= more
    return found


def keys_in(section: type[BaseModel], place: str = "") -> Iterator[str]:
    """Every key of a recipe that holds a value, by its place."""
    for name, about in section.model_fields.items():
        inside = [kind for kind in kinds(about.annotation) if issubclass(kind, Section) or kind is Loss]
        for kind in inside:
            yield from keys_in(kind, f"{place}{name}.")
        if not inside and not about.exclude:
            yield f"{place}{name}"


def kinds(annotation: Any) -> Iterator[type]:
    if get_origin(annotation) is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from kinds(part)
    elif isinstance(annotation, type):
        yield annotation


def test_every_key_of_a_recipe_has_a_row() -> None:
    """A new key needs one: what does it decide?"""
    assert set(keys_in(Recipe)) == set(TABLE)


ROWS = [pytest.param(*row, id=f"{row[1]} in {row[0]}") for rows in TABLE.values() for row in rows]


@pytest.mark.parametrize(("recipe", "override", "direct"), ROWS)
def test_a_changed_key_makes_exactly_the_stages_anew_that_depend_on_it(
    folder: Path, base: Callable[[str], dict[str, set[str]]], recipe: str, override: str, direct: tuple[str, ...]
) -> None:
    before, after = base(recipe), keys_of(folder, recipe, override)
    anew = {name for name, keys in after.items() if keys - before.get(name, set())}
    assert anew == follow(direct, recipe, set(after))


@pytest.mark.parametrize(("recipe", "file", "direct"), FILES)
def test_a_changed_file_makes_exactly_the_stages_anew_that_depend_on_it(
    folder: Path, base: Callable[[str], dict[str, set[str]]], recipe: str, file: str, direct: tuple[str, ...]
) -> None:
    before, content = base(recipe), (folder / file).read_bytes()
    try:
        if file.endswith(".parquet"):
            pq.write_table(table(9), folder / file)
        elif file.endswith(".py"):
            (folder / file).write_bytes(content + b"# edited\n")
        else:
            tensors = safetensors.torch.load_file(folder / file)
            safetensors.torch.save_file({**tensors, "fc.bias": tensors["fc.bias"] + 1}, folder / file)
        after = keys_of(folder, recipe)
    finally:
        (folder / file).write_bytes(content)
    anew = {name for name, keys in after.items() if keys - before[name]}
    assert anew == follow(direct, recipe, set(after))


def test_every_stage_is_shown(base: Callable[[str], dict[str, set[str]]]) -> None:
    assert {name for recipe in RECIPES for name in base(recipe)} == set(READS)
