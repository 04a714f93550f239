"""Estimate: a model's latency from its graph and from a device's profile or calibration."""
