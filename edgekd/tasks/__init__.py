"""Tasks: the answers of a network, with their losses and scores."""
