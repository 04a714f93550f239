"""Input: a kind of samples, from the stored sample to a network's arguments. An input is one file and one test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgekd.base.draws import Floats, Ids

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]  # field -> [n, ...]: row i is sample i


@dataclass(frozen=True)
class Field:
    """A named array of each sample, raw or as a network's argument. `shape` is that of one sample.

    A size that varies is given as a name; fields that share the size share the name. `at_least` and `at_most` bound that
    size, and stored samples have the largest.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    at_most: int | None = None
    at_least: int = 1

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of a stored sample. Raises ValueError for a free size without a bound."""
        if self.at_most is None and any(isinstance(size, str) for size in self.shape):
            raise ValueError(f"field {self.name} has a free size and no bound; give at_most")
        return tuple(size if isinstance(size, int) else self.at_most or 0 for size in self.shape)


class Input(Protocol):
    """The functions of an input. They are pure: equal arguments give equal arrays on every machine, in every order."""

    @property
    def noun(self) -> str:
        """The word for the samples, for example "images"."""
        ...

    @property
    def fields(self) -> tuple[Field, ...]:
        """The raw arrays, in the order of the arguments of `preprocess`."""
        ...

    @property
    def arguments(self) -> tuple[Field, ...]:
        """The network's arguments, in their order, as `preprocess` computes them; free sizes keep their names."""
        ...

    @property
    def offers(self) -> Mapping[str, Any]:
        """Sizes that a model's function may ask for by name, for example `in_channels`: a number, or one for each column."""
        ...

    def mistakes(self) -> Mapping[str, str]:
        """Settings that do not fit these samples: the key below [data] -> the reason."""
        ...

    def read(self, stored: Any) -> Arrays:
        """The arrays `[...]` of one stored sample. Raises ValueError if the sample cannot be decoded."""
        ...

    def view(self, raw: Arrays, ids: Ids, view: int, seed: int) -> Arrays:
        """The samples as this view augments them."""
        ...

    def moved(self, maps: NDArray[Any], ids: Ids, view: int, seed: int, outside: int) -> NDArray[Any]:
        """Maps of labels `[n, h, w]`, moved as `view` moves the samples; new pixels are `outside`.

        Raises TypeError for samples that have no pixels.
        """
        ...

    def mixed(self, raw: Arrays, partners: Arrays, share: Floats) -> Arrays:
        """Each sample mixed with its partner: `share` `[n]` of the sample, the rest of the partner."""
        ...

    def preprocess(self) -> nn.Module:
        """The module that turns raw tensors into a network's arguments, for the loop and the graph alike.

        The loop calls this function for each batch, so a result that takes long to compute is kept.
        """
        ...


def at_most(fields: Iterable[Field]) -> dict[str, int]:
    """The bound of each free size, by its name."""
    return {size: field.at_most for field in fields if field.at_most for size in field.shape if isinstance(size, str)}


def number_of(raw: Arrays) -> int:
    """The number of samples."""
    return len(next(iter(raw.values())))


def cut(raw: Arrays, rows: slice) -> Arrays:
    """The samples of the given rows."""
    return {name: array[rows] for name, array in raw.items()}
