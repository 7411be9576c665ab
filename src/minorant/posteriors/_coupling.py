r"""Coupling layers: a few coordinates stay, the others move by an amount that depends on them.

.. math:: x_A' = x_A, \qquad x_B' = f(x_B;\, c(x_A))

with f monotone in every coordinate and c a small network, so that both the inverse and the
Jacobian determinant cost one pass. Layers have one shape and are scanned over: compile time does
not grow with depth. Between layers coordinates turn in a circle, by a little more than those that
stayed, so that every coordinate is moved, and by changing others. Coordinates are the first axis
inside (each one's draws lie side by side in memory).

Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP", section 3.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array
from minorant.posteriors import _spline

Kind = Literal["affine", "spline"]
_LARGEST_LOG_SCALE = 2.0  # of one layer: eight of them still reach far, one alone cannot explode


class Weights(NamedTuple):
    """The networks of all layers, outputs before inputs: two hidden layers and the output."""

    first: Float[Array, "layers w h"]
    first_offset: Float[Array, "layers w 1"]
    second: Float[Array, "layers w w"]
    second_offset: Float[Array, "layers w 1"]
    last: Float[Array, "layers c w"]
    last_offset: Float[Array, "layers c 1"]


class Couplings(eqx.Module):
    """A stack of coupling layers on vectors of p coordinates.

    Attributes:
        weights: the networks.
        size: p.
        kind: ``"affine"`` or ``"spline"``: how coordinates move.
    """

    weights: Weights
    size: int = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)

    @classmethod
    def identity(
        cls, size: int, layers: int, width: int, kind: Kind, rng: np.random.Generator, dtype: Any
    ) -> Couplings:
        """Layers that move nothing yet: the outputs of their networks are zero."""
        kept = size // 2
        outputs = (size - kept) * (2 if kind == "affine" else _spline.SHAPES)

        def drawn(*shape: int) -> np.ndarray:
            return (rng.normal(size=shape) / np.sqrt(max(shape[-1], 1))).astype(dtype)

        def zero(*shape: int) -> np.ndarray:
            return np.zeros(shape, dtype)

        weights = Weights(
            drawn(layers, width, kept),
            zero(layers, width, 1),
            drawn(layers, width, width),
            zero(layers, width, 1),
            zero(layers, outputs, width),
            zero(layers, outputs, 1),
        )
        return cls(weights, size, kind)

    def forward(
        self, values: Float[Array, "p s"]
    ) -> tuple[Float[Array, "p s"], Float[Array, " s"]]:
        """All layers in turn, and the log determinant of the Jacobian."""

        def layer(carry: tuple[Array, Array], weights: Weights) -> tuple[Any, None]:
            at, log_determinant = carry
            kept, moved = at[: self._kept], at[self._kept :]
            moved, log_slope = self._moved(moved, _outputs(weights, kept))
            at = _turned(jnp.concatenate([kept, moved]), self._turn)
            return (at, log_determinant + log_slope.sum(0)), None

        start = (values, jnp.zeros_like(values[0]))
        (at, log_determinant), _ = jax.lax.scan(layer, start, self.weights)
        return _turned(at, -self._turn * self._layers), log_determinant

    def inverse(
        self, values: Float[Array, "p s"]
    ) -> tuple[Float[Array, "p s"], Float[Array, " s"]]:
        """What ``forward`` takes here, and its log determinant there."""

        def layer(carry: tuple[Array, Array], weights: Weights) -> tuple[Any, None]:
            at, log_determinant = carry
            at = _turned(at, -self._turn)
            kept, moved = at[: self._kept], at[self._kept :]
            moved, log_slope = self._moved_back(moved, _outputs(weights, kept))
            return (jnp.concatenate([kept, moved]), log_determinant + log_slope.sum(0)), None

        start = (_turned(values, self._turn * self._layers), jnp.zeros_like(values[0]))
        return jax.lax.scan(layer, start, self.weights, reverse=True)[0]

    @property
    def _kept(self) -> int:
        return self.size // 2

    @property
    def _turn(self) -> int:
        return self.size // 2 + (max(1, self.size // 8) if self.size > 3 else 0)

    @property
    def _layers(self) -> int:
        return len(self.weights.first)

    def _moved(self, values: Array, outputs: Array) -> tuple[Array, Array]:
        if self.kind == "spline":
            return _spline.forward(values, _knots(outputs, values))
        log_scale, shift = _affine(outputs)
        return values * jnp.exp(log_scale) + shift, log_scale

    def _moved_back(self, values: Array, outputs: Array) -> tuple[Array, Array]:
        if self.kind == "spline":
            return _spline.inverse(values, _knots(outputs, values))
        log_scale, shift = _affine(outputs)
        return (values - shift) * jnp.exp(-log_scale), log_scale


def _outputs(weights: Weights, kept: Float[Array, "h s"]) -> Float[Array, "c s"]:
    hidden = _bounded(weights.first @ kept + weights.first_offset)
    hidden = _bounded(weights.second @ hidden + weights.second_offset)
    return weights.last @ hidden + weights.last_offset


def _bounded(values: Array) -> Array:
    """A smooth step from -1 to 1, cheaper than tanh."""
    return values * jax.lax.rsqrt(1.0 + values**2)


def _affine(outputs: Float[Array, "c s"]) -> tuple[Array, Array]:
    log_scale, shift = jnp.split(outputs, 2)
    return _LARGEST_LOG_SCALE * _bounded(log_scale / _LARGEST_LOG_SCALE), shift


def _knots(outputs: Float[Array, "c s"], values: Float[Array, "m s"]) -> _spline.Knots:
    return _spline.knots(outputs.reshape(_spline.SHAPES, *values.shape))


def _turned(values: Float[Array, "p s"], by: int) -> Float[Array, "p s"]:
    """The coordinates turned in a circle; ``by`` of them go from the front to the back."""
    by %= len(values)
    return jnp.concatenate([values[by:], values[:by]]) if by else values
