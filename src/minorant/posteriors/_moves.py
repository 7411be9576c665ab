r"""Transition probabilities that differ from row to row: a multinomial logit of the row's inputs.

.. math:: A_{ij}(t) = p(z_t = j \mid z_{t-1} = i, u_t) \propto
          \exp(c_{ij}^\top (1, u_t)) \text{ where the move is allowed}

They are never stored: k^2 numbers for every row are more to fetch than to compute.
"""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant._types import Array


class Moves(eqx.Module):
    """The transition into every row, evaluated where it is needed.

    Attributes:
        coefficients: ``(k, k, q)`` of a move from i to j, by columns of the design.
        barrier: ``(k, k)`` 0 where a move is allowed, -inf where it is not.
        design: ``(q, *rows)``, a one and the inputs of each row; rows in any shape.
    """

    coefficients: Float[Array, "k k q"]
    barrier: Float[Array, "k k"]
    design: Float[Array, "q *rows"]

    def over(self, design: Float[Array, "q *rows"]) -> Self:
        """The same moves for other rows."""
        return eqx.tree_at(lambda moves: moves.design, self, design)

    def logs(self, design: Float[Array, "q *part"]) -> Float[Array, "k k *part"]:
        """``log A`` of the rows with this design, -inf where not allowed."""
        rows = (1,) * (design.ndim - 1)
        logits = jnp.reshape(self.barrier, self.barrier.shape + rows)
        for a in range(len(design)):  # written out: a product with so few columns is slower
            own = jnp.asarray(self.coefficients)[:, :, a]
            logits = logits + own.reshape(own.shape + rows) * design[a]
        top = jax.lax.stop_gradient(logits.max(1, keepdims=True))
        relative = logits - top
        return relative - jnp.log(jnp.exp(relative).sum(1, keepdims=True))

    def probabilities(self, design: Float[Array, "q *part"]) -> Float[Array, "k k *part"]:
        """``A`` of the rows with this design."""
        return jnp.exp(self.logs(design))


def at_step(transition: Array | Moves, step: Array) -> Array:
    """The transition into one step of all lanes: (k, k), or (k, k, lanes)."""
    if not isinstance(transition, Moves):
        return transition
    design = jax.lax.dynamic_index_in_dim(transition.design, step, 1, keepdims=False)
    return transition.probabilities(design)


def designs(transition: Array | Moves) -> Float[Array, "steps q lanes"] | None:
    """What a loop over steps is handed of each, for :func:`logs_at`."""
    return jnp.moveaxis(transition.design, 1, 0) if isinstance(transition, Moves) else None


def logs_at(transition: Array | Moves, design: Any) -> Float[Array, "k k #lanes"]:
    """``log A`` of one step, the lanes last; a constant transition comes as logarithms."""
    if isinstance(transition, Moves):
        return transition.logs(design)
    return transition[:, :, None]
