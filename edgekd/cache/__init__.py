"""Cache: stages stored under a hash of all that made them."""
