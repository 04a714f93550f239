"""Table: a typed table that nobody changes, as of a TOML file; a key that it does not know is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of a file: immutable, without unknown keys, and without numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
