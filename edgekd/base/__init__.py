"""Base: errors in words, the console, processes, files and names. Nothing here knows of distillation."""
