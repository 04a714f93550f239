"""Tasks: the answers of a network, how they are learnt, and how good they are."""
