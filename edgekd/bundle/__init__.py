"""Bundle: the folder that ships, written, read and verified."""
