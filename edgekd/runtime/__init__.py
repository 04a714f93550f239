"""Runtime: runs models as they ship, each in a separate process."""
