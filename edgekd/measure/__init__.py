"""Measuring a model's speed and memory: `protocol` times, and edgekd.runtime.runners runs the models."""
