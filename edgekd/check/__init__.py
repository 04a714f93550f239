"""Check: what is refused before training, and what decides at the end."""
