"""A normalising flow as the density of rows of continuous columns; no latent, no bound: exact."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float

from minorant._config import precision, quick_jit
from minorant._types import Affine, Array, Key
from minorant.posteriors.flow import Flow

_CHUNK = 8192
_LEAST = 64


class RowFlow(eqx.Module):
    r"""A flow over standardised columns, as a density in the data's own units.

    .. math:: \log p(x) = \log q\big((x - m) / s\big) - \sum_j \log s_j

    Attributes:
        units: the change of units to standardised columns.
        member: q, of as many coordinates as there are columns.

    Example:
        >>> import jax, numpy as np
        >>> from minorant._types import Affine
        >>> from minorant.models import RowFlow
        >>> from minorant.posteriors import Flow
        >>> q = Flow.around(np.zeros(1), np.eye(1), layers=1, key=jax.random.key(0))
        >>> flow = RowFlow(Affine(np.array([5.0]), np.array([2.0])), q)
        >>> flow.log_density(np.array([[5.0], [7.0]])).round(3)
        array([-1.612, -2.112])

    Not for: categories or counts (a density of them is infinite), missing cells.

    Papamakarios et al. (2021), "Normalizing flows for probabilistic modeling and inference".
    """

    units: Affine
    member: Flow

    def log_density(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """``log p(x)`` of every row, in nats; NumPy in, NumPy out, in the flow's float type."""
        dtype = self.member.shift.dtype
        standard = self.units.apply(np.asarray(rows, dtype=float)).astype(dtype)
        log_density = self._by_chunks(_log_density, standard)
        return log_density - np.log(self.units.scale).sum().astype(dtype)

    def sample(self, key: Key, n: int) -> Float[np.ndarray, "n d"]:
        """``n`` independent rows."""
        with precision(self.member.shift.dtype):
            noise = np.asarray(self.member.noise(key, n))
        draws = self._by_chunks(_draws, noise)
        return (self.units.shift + self.units.scale * draws).astype(draws.dtype)

    def _by_chunks(self, function: Callable[[Flow, Array], Array], rows: np.ndarray) -> np.ndarray:
        """What a compiled function of rows gives, over chunks of few different sizes."""
        found = []
        with precision(rows.dtype):
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                found.append(np.asarray(function(self.member, padded(part)))[: len(part)])
        return np.concatenate(found)


def padded(rows: Float[np.ndarray, "n *d"]) -> Float[np.ndarray, "m *d"]:
    """Rows filled up with zeros to the next power of two: few shapes, few compilations."""
    size = max(_LEAST, 1 << (len(rows) - 1).bit_length())
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


_log_density = quick_jit(lambda member, rows: member.log_density(rows), "small")
_draws = quick_jit(lambda member, noise: member.transform(noise)[0], "small")
