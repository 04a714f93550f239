"""Inputs: what a network reads is computed here, for the training loop and for the exported graph alike."""
