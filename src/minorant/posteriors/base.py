"""What every q over latents offers."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Float

from minorant._types import Array, Key, PyTree


class AbstractPosterior(eqx.Module):
    """A distribution q over the latents of a block of rows."""

    @abstractmethod
    def sample(self, key: Key) -> PyTree:
        """One draw of the latents of every row."""

    @abstractmethod
    def log_density(self, latents: PyTree) -> Float[Array, " n"]:
        """``log q(z)`` per row, in nats."""

    @abstractmethod
    def by_row(self) -> PyTree:
        """What is told of each row's latent by itself, every leaf with the rows first."""

    @staticmethod
    @abstractmethod
    def from_rows(by_row: PyTree) -> AbstractPosterior:
        """The rows' marginal distributions again, from what ``by_row`` gave."""
