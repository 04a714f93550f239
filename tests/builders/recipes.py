"""RECIPE, TINY: recipes that train in seconds, on scans of digits and on a network of the test's own."""

from __future__ import annotations

DIGITS = "python:edgekd.data.digits:load"


RECIPE = f"""
[data]
train = "{DIGITS}"
test = "{DIGITS}"
mean = [0.31]
std = [0.38]

[teacher]
model = "edgekd:resnet8"
args = {{ width = 8 }}
train_epochs = 1

[student]
model = "edgekd:resnet8"
args = {{ width = 4 }}

[distill]
epochs = 1
batch_size = 64
views = 1

# One epoch teaches little: what the floors say of it is tested by itself.
[budget]
above_majority = false
max_class_drop = 100
"""


TINY = """
[data]
train = "python:edgekd.data.digits:load"
test = "python:edgekd.data.digits:load"
mean = [0.31]
std = [0.38]
[student]
model = "python:students.py:plain"
[distill]
epochs = 1
batch_size = 64
views = 1
losses = []
label_weight = 1.0
[budget]
max_drop_from_fp32 = 100
max_class_drop = 100  # one epoch teaches little
above_majority = false
[quantize]
mode = "none"
"""
