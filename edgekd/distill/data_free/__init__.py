"""Data-free distillation: training images made from the teacher alone."""
