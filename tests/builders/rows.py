"""Rows of tests: a table of numbers, a category and a date, whose label follows from them, as a CSV."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path
from typing import Any

import numpy as np

CITIES = ("Bergen", "Lima", "Oslo")
NAMES = ("age", "income", "city", "day", "label")


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows by column; of a tenth of them the age is missing, and of a tenth the city.

    Whoever is older than 50, or lives in Lima, says yes; the income says nothing, and the day nothing.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        age, city = int(rng.integers(20, 80)), CITIES[rng.integers(3)]
        day = datetime.date(2026, 1, 1) + datetime.timedelta(days=int(rng.integers(300)))
        row = {"age": age, "income": float(rng.integers(100, 90000)), "city": city, "day": day.isoformat()}
        row["label"] = "yes" if age > 50 or city == "Lima" else "no"
        for name in ("age", "city"):
            if rng.random() < 0.1:
                row[name] = ""
        found.append(row)
    return found


def write_csv(path: Path, table: list[dict[str, Any]], names: tuple[str, ...] | None = None) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names or list(table[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table)
    return path
