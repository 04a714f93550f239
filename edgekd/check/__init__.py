"""Check: refusals before the training, and decisions at the end of a build."""
