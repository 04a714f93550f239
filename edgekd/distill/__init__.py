"""Distillation: methods for any training loop, and edgekd's own training loop and teacher's cache."""

from edgekd.distill import methods

__all__ = ["methods"]
