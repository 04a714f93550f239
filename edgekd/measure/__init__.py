"""How fast a model is and how large it gets in memory: `protocol` times, `runners` are what is timed."""
