"""Base: errors in words, the console, processes, files and names; nothing of distillation."""
