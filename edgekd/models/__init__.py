"""Models: the small built-in students, references to the user's own models, and their weights."""

from edgekd.models.called import CalledModel
from edgekd.models.reference import BUILT_IN, ExportedModel, OnnxModel, load_model, number_of_classes

__all__ = ["BUILT_IN", "CalledModel", "ExportedModel", "OnnxModel", "load_model", "number_of_classes"]
