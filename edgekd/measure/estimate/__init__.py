"""Estimate: a model's latency from its graph and a device's profile or calibration."""
