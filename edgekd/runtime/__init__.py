"""Runtime: models run as they ship, each in a process of its own."""
