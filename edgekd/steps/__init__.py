"""Steps: the stages of a build, one file each."""
