"""Schemes: what distillation learns from where it is not a trained teacher and its data."""
