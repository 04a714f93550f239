"""The machines that a bundle is taken to: a file a kind of connection."""
