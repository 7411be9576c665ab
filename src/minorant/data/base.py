"""What a source of rows offers: a count, and sums of functions of blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Float

from minorant._types import Array, PyTree, Rows

BlockFunction = Callable[[PyTree, Rows], PyTree]


class AbstractSource(eqx.Module):
    """Rows in blocks. Sums over them add: files, shards and machines are one fold."""

    @abstractmethod
    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights: the number of rows when all weigh one."""

    @abstractmethod
    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """The sum of ``function(parameters, rows)`` over all blocks."""
