"""Bundle: the shipped folder is written, read and verified here."""
