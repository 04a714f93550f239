"""Cache: the outputs of stages, stored under a hash of everything that shapes them."""
