"""Steps: the stages of a build and the functions that run them."""
