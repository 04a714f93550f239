"""Figures: a report's data, their words and their statistics."""
