"""Distillation: methods for anybody's training loop, and edgekd's own loop and teacher's cache."""

from edgekd.distill import methods

__all__ = ["methods"]
