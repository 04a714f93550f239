"""Figures in words."""

from __future__ import annotations

import pytest

from edgekd.figures.words import begun


@pytest.mark.parametrize(
    ("text", "sentence"), [("top-1", "Top-1"), ("mean IoU", "Mean IoU"), ("mAP", "mAP"), ("MAE", "MAE"), ("", "")]
)
def test_a_sentence_begins_with_a_capital_and_an_abbreviation_keeps_its_letters(text: str, sentence: str) -> None:
    assert begun(text) == sentence
