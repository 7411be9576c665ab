r"""One encoder for all rows: a small network from a row's cells to the parameters of its q.

.. math:: q_\phi(z \mid x) = N\big(z \mid \mu_\phi(x), L_\phi(x) L_\phi(x)^\top\big)

Kingma & Welling (2014), "Auto-encoding variational Bayes", section 3.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import constant
from minorant._types import Array, Rows, Summary
from minorant.posteriors.in_rows import FiniteInRows, GaussianInRows

FAMILIES = ("full-rank", "mean-field")
_FULL_RANK = 10  # latent dimensions up to which a full covariance is the default
_LARGEST = 8.0  # logarithm of the largest and of one over the smallest scale, in free coordinates
_FARTHEST = 5.0  # standard deviations beyond which a cell looks alike to the network


class PerRow(eqx.Module):
    """A Gaussian q of its own for every row.

    Args:
        family: "full-rank", or "mean-field" for independent latent dimensions.
        draws: what a row's bound is averaged over; None: 32, or four times the dimensions.

    Example:
        >>> from minorant.posteriors import PerRow
        >>> PerRow("mean-field").family
        'mean-field'
    """

    family: str = eqx.field(static=True, default="full-rank")
    draws: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}; got {self.family!r}.")
        if self.draws is not None and self.draws < 1:
            raise ValueError(f"draws must be at least 1; got {self.draws}.")


class Network(eqx.Module):
    """A multilayer perceptron beside a linear map, over standardised cells.

    Attributes:
        weights: of each layer, (inputs, outputs).
        offsets: of each layer, (outputs,).
        linear: (d, means) the linear map that the first outputs have beside.
        shift: (d,) subtracted from cells.
        scale: (d,) cells are divided by it.
        gaps: whether a missing cell is told by an input of its own.
    """

    weights: tuple[Float[Array, "i o"], ...]
    offsets: tuple[Float[Array, " o"], ...]
    linear: Float[Array, "d l"]
    shift: Float[Array, " d"] = constant()
    scale: Float[Array, " d"] = constant()
    gaps: bool = eqx.field(static=True, default=False)

    def __call__(self, rows: Rows) -> Float[Array, "n o"]:
        """The last layer's outputs; a missing cell counts as its column's mean."""
        cells = (rows.values - self.shift) / self.scale
        there = jnp.ones(cells.shape, bool) if rows.observed is None else rows.observed
        there = jnp.broadcast_to(there, cells.shape)
        cells = jnp.where(there, jnp.clip(cells, -_FARTHEST, _FARTHEST), 0.0)
        layer = cells
        if self.gaps:
            layer = jnp.concatenate([layer, 1.0 - there.astype(layer.dtype)], axis=1)
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            layer = jax.nn.silu(layer @ weight + offset)
        found = layer @ self.weights[-1] + self.offsets[-1]
        return found.at[:, : self.linear.shape[1]].add(cells @ self.linear)


class Encoder(eqx.Module):
    r"""One q for all rows, as a function of the row: ``minorant.fit(..., posterior=Encoder())``.

    .. math:: \max_{\theta, \phi} \sum_i w_i \, E_{q_\phi(z \mid x_i)}
              [\log p_\theta(x_i, z) - \log q_\phi(z \mid x_i)]

    A network on standardised columns, with an input that tells a missing cell where the table has
    some, beside a linear map; its outputs are the mean and the Cholesky factor of a Gaussian over
    the latent in free coordinates, or, of a vector of finite latents, the probabilities of each.
    Model and encoder are climbed together on batches of rows drawn by their weights. New rows are
    encoded without a climb.

    Args:
        width: units of a hidden layer; None: twice columns and latents together, 32 to 128.
        depth: hidden layers; 0 for the linear map alone.
        family: "full-rank", "mean-field" (independent latent dimensions), or None: full-rank up to
            ten dimensions.
        batch: rows of one step.
        held_out: share of the rows, below 1, that only say when to stop and which iterate is best;
            None: 0.15 where the model has more free parameters than there are rows, else 0.
        network: None, or a fitted encoder's: the climb goes on from there.
        bound: what is climbed; ``minorant.fit(..., bound=)`` says it.

    Example:
        >>> import jax.numpy as jnp, numpy as np, minorant
        >>> import numpyro.distributions as dist
        >>> class Factor(minorant.Model):
        ...     loadings: object
        ...     scale: object = minorant.positive()
        ...     def prior(self):
        ...         return dist.Normal(jnp.zeros(1), 1.0).to_event(1)
        ...     def likelihood(self, z):
        ...         return dist.Normal(self.loadings @ z, self.scale).to_event(1)
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(200, 1)) + 0.5 * rng.normal(size=(200, 3))
        >>> start = Factor(0.5 * np.ones((3, 1)), np.array(1.0))
        >>> fit = minorant.fit(start, rows, posterior=minorant.Encoder(depth=0))
        >>> fit.outcome.ok, fit.posterior(rows[:2]).mean.shape
        (True, (2, 1))

    Not for: a table of few rows, where each row's own Gaussian (``posterior="full-rank"``) is
    tighter and found sooner.

    Kingma & Welling (2014), "Auto-encoding variational Bayes"; Cremer, Li & Duvenaud (2018),
    "Inference suboptimality in variational autoencoders" (the two gaps).
    """

    width: int | None = eqx.field(static=True, default=None)
    depth: int = eqx.field(static=True, default=2)
    family: str | None = eqx.field(static=True, default=None)
    batch: int = eqx.field(static=True, default=256)
    held_out: float | None = eqx.field(static=True, default=None)
    network: Network | None = None
    bound: Any = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.family is not None and self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, or None; got {self.family!r}.")
        for name, least in (("width", 1), ("depth", 0), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be at least 0 and below 1; got {self.held_out}.")

    def is_full(self, l: int) -> bool:
        """Whether latent dimensions may depend on each other."""
        return self.family == "full-rank" or (self.family is None and l <= _FULL_RANK)

    def started(
        self, summary: Summary, sizes: tuple[int, int], gaps: bool, rng: np.random.Generator
    ) -> Self:
        """With a network whose q is the same for all rows, to start from (host side).

        ``sizes``: how many outputs have a linear map beside, and how many there are.
        """
        d, (means, outputs) = summary.n_columns, sizes
        width = self.width or int(np.clip(2 * (d + outputs), 32, 128))
        layers = [d * (1 + gaps), *[width] * self.depth, outputs]
        weights = [rng.normal(size=(i, o)) / np.sqrt(i) for i, o in itertools.pairwise(layers)]
        weights[-1] = np.zeros((layers[-2], outputs))
        spread = np.sqrt(summary.variance)
        network = Network(
            shift=np.nan_to_num(summary.mean),
            scale=np.where(spread > 0, spread, 1.0),
            weights=tuple(weights),
            offsets=tuple(np.zeros(o) for o in layers[1:]),
            linear=np.zeros((d, means)),
            gaps=gaps,
        )
        return dataclasses.replace(self, network=network)

    def gaussians(self, rows: Rows, origin: Float[Array, " l"]) -> GaussianInRows:
        """Q of every row, a Gaussian around ``origin`` where the network says nothing."""
        l = origin.shape[-1]
        found = self._outputs(rows)
        mean, log_scale = origin + found[:, :l], found[:, l : 2 * l]
        inside = jnp.eye(l, dtype=found.dtype)
        if self.is_full(l):
            low = np.tril_indices(l, -1)
            zeros = jnp.zeros((len(found), l, l), found.dtype)
            inside = inside + zeros.at[:, low[0], low[1]].set(found[:, 2 * l :])
        log_scale = _LARGEST * jnp.tanh(log_scale / _LARGEST)
        return GaussianInRows(mean, jnp.exp(log_scale)[..., None] * inside)

    def finite(self, rows: Rows, values: Array, shape: tuple[int, ...]) -> FiniteInRows:
        """Q of every row over independent coordinates that take one of m values each."""
        logits = self._outputs(rows).reshape(-1, *shape, len(values))
        return FiniteInRows(jax.nn.log_softmax(logits), values)

    def _outputs(self, rows: Rows) -> Float[Array, "n o"]:
        if self.network is None:
            raise ValueError(
                "This encoder has no network yet: give it to minorant.fit as posterior=, which "
                "learns one."
            )
        return self.network(rows)


def gaussian_outputs(encoder: Encoder, l: int) -> tuple[int, int]:
    """How many numbers are means of a Gaussian over l dimensions, and how many it takes."""
    return l, 2 * l + (l * (l - 1) // 2 if encoder.is_full(l) else 0)
