r"""A model and its priors as a target: parameters are unknowns, latents are integrated out.

.. math:: \log p(x, \theta) = \sum_i w_i \log \int p_\theta(x_i, z)\, dz + \log p(\theta)

What a model sums or integrates out exactly never enters the climb: a regression with a thousand
random effects becomes a target of a handful of dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import fitting
from minorant._config import precision
from minorant._parameters import leaf_constraints
from minorant._types import Affine, Array, Key, PyTree, Rows
from minorant.checking import POINTS, looked_at
from minorant.data import ArraySource
from minorant.data.tables import as_table
from minorant.models.base import AbstractExactModel
from minorant.models.target import AbstractTarget, largest_array
from minorant.preparation import climbed_blocks
from minorant.targets._charts import Assembled, inside, unknown_of
from minorant.unknowns import AbstractUnknown, Real

_ROUNDS = 3
_MOST_SCALED = 512


class Prior:
    """The log density of a model's parameters that a user gave; the same where that is the same."""

    def __init__(self, given: Any, names: tuple[str, ...]) -> None:
        """From a function of the model, or a dict of distributions by name."""
        self._given = given
        self._function = given if callable(given) and not isinstance(given, dict) else None
        self._distributions = given if isinstance(given, dict) else {}
        if given is not None and self._function is None and not isinstance(given, dict):
            raise TypeError(
                "prior must be a function of the model that returns a log density, or a dict of "
                f"distributions by name; got {type(given).__name__}."
            )
        for name, distribution in self._distributions.items():
            _check_distribution(name, distribution, names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prior) and self._given is other._given

    def __hash__(self) -> int:
        return id(self._given)

    def log_density(self, model: Any, values: dict[str, Array]) -> Float[Array, ""]:
        """Of the model, or the sum over the named values."""
        if self._function is not None:
            answer = jnp.asarray(self._function(model))
            if answer.shape != ():
                raise ValueError(
                    f"prior must return one number; it returned shape {answer.shape}. Sum it."
                )
            return answer
        logs = [law.log_prob(values[name]).sum() for name, law in self._distributions.items()]
        return sum(logs, jnp.zeros(()))

    def sample(self, key: Key, n: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Draws of every unknown; a distribution of one number is drawn for every entry.

        Raises:
            ValueError: where an unknown has no distribution that can be drawn from.
        """
        laws = self._distributions
        without = [name for name in shapes if not hasattr(laws.get(name), "sample")]
        if without:
            raise ValueError(
                f"The prior of {', '.join(without)} is no distribution to draw from: give bayes "
                "prior={name: distribution} for every unknown."
            )
        found = {}
        for place, (name, shape) in enumerate(shapes.items()):
            law = laws[name]
            own = len(law.batch_shape) + len(law.event_shape)
            entries = (n, *shape[: len(shape) - own])
            found[name] = np.asarray(law.sample(jax.random.fold_in(key, place), entries))
        return found


def _check_distribution(name: str, distribution: Any, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(
            f"prior names {name!r}, which is not among what is learned: {', '.join(names)}."
        )
    if not hasattr(distribution, "log_prob"):
        raise TypeError(
            f"prior[{name!r}] must be a distribution with log_prob, such as numpyro's; got "
            f"{type(distribution).__name__}."
        )


class BayesTarget(AbstractTarget):
    """Parameters of a model given a table; made by :func:`bayes`.

    Free coordinates are those of the unknowns, measured from where the fit ended in units of about
    one posterior standard deviation. The table is data of the target, no constant of its program.
    """

    template: Any
    unknowns: tuple[AbstractUnknown, ...]
    source: ArraySource
    centre: Float[Array, " p"]
    scale: Float[Array, " p"]
    names: tuple[str, ...] = eqx.field(static=True)
    places: tuple[int, ...] = eqx.field(static=True)
    prior: Prior = eqx.field(static=True)
    entries: int = eqx.field(static=True, default=1)
    n_rows: int | None = eqx.field(static=True, default=None)

    @property
    def size(self) -> int:
        """The number p of free coordinates."""
        return len(self.centre)

    def log_density(self, free: Float[Array, " p"]) -> Float[Array, ""]:
        """Evidence of the rows, the model's prior and the user's, and the Jacobian."""
        values, log_jacobian = self._values(free)
        model = self.model(values)
        found = _log_evidence(self.source, model) + model.log_prior()
        return found + self.prior.log_density(model, values) + log_jacobian

    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """The model's learned fields by name."""
        return self._values(free)[0]

    def free(self, values: dict[str, Any]) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """Free coordinates of named values, and the log Jacobian there.

        Raises:
            ValueError: when a name is missing, a shape is wrong, or a value is outside.
        """
        parts = []
        for name, unknown in zip(self.names, self.unknowns, strict=True):
            if name not in values:
                raise ValueError(f"Values are needed for every unknown; {name} is missing.")
            value = np.asarray(values[name], float)
            if value.shape != unknown.shape:
                raise ValueError(f"{name} must have shape {unknown.shape}; got {value.shape}.")
            part = np.asarray(unknown.free(jnp.asarray(value), {}))
            if not np.isfinite(part).all():
                raise ValueError(f"{name} = {value} is not strictly inside its support.")
            parts.append(part)
        free = (np.concatenate(parts) - self.centre) / self.scale
        return free, self._values(jnp.asarray(free))[1]

    def initial(self) -> Float[np.ndarray, " p"]:
        """Where the fit ended."""
        return np.zeros(self.size)

    def work(self) -> int:
        """The largest number of array entries that one evaluation holds at once."""
        return self.entries

    def model(self, values: dict[str, Any]) -> Any:
        """The model with these values in its fields, for example one draw of the posterior.

        Args:
            values: by name, such as ``{name: draws[name][0] for name in target.names}``.

        Returns:
            The model; what is not learned is as in the template.

        Example:
            >>> import numpy as np, minorant
            >>> model = minorant.Mixture(minorant.components.Poisson(), n_components=1)
            >>> target = minorant.targets.bayes(model, np.array([[3.0], [5.0]]))
            >>> target.model({"component.rate": np.array([[2.0]])}).component.rate
            array([[2.]])
        """
        leaves, structure = jax.tree.flatten(self.template)
        for name, place in zip(self.names, self.places, strict=True):
            leaves[place] = values[name]
        return jax.tree.unflatten(structure, leaves)

    def replicate(self, key: Key, **values: Array) -> Float[Array, "n d"]:
        """As many new rows as the table has, from the model with these values.

        Raises:
            TypeError: for a model of groups, sequences or inputs, whose rows are not alike.
        """
        if self.n_rows is None:
            raise TypeError(
                f"Rows of {type(self.template).__name__} depend on their groups or inputs: give "
                "predict a function that says for which, with target.model(values) inside it."
            )
        return self.model(values).sample(key, self.n_rows)[1]

    def sample_prior(self, n: int = 1000, random_state: int = 0) -> dict[str, np.ndarray]:
        """``n`` draws of every unknown from its prior, by name.

        Raises:
            ValueError: where an unknown has no distribution of its own in ``prior=``.
        """
        shapes = {u: w.shape for u, w in zip(self.names, self.unknowns, strict=True)}
        with precision(np.dtype(np.float64)):
            return self.prior.sample(jax.random.key(random_state), n, shapes)

    def _values(self, free: Float[Array, " p"]) -> tuple[dict[str, Array], Float[Array, ""]]:
        point, begin = self.centre + self.scale * free, 0
        values, total = {}, jnp.log(jnp.asarray(self.scale)).sum()
        for name, unknown in zip(self.names, self.unknowns, strict=True):
            part = point[begin : begin + unknown.size]
            values[name], log_jacobian = unknown.value(part, {})
            total, begin = total + log_jacobian, begin + unknown.size
        return values, total

    def scaled(self) -> Self:
        """In units of one over the root of the curvature, coordinate by coordinate (host side)."""
        if self.size > _MOST_SCALED:
            return self
        scale, widest = np.asarray(self.scale), np.concatenate(list(map(_widest, self.unknowns)))
        step = 1e-3 * np.maximum(np.abs(np.asarray(self.centre)), 1e-2)
        for _ in range(_ROUNDS):
            curvature = _curvatures(self, step)
            sound = np.isfinite(curvature) & (curvature > 0)
            scale = np.where(sound, 1.0 / np.sqrt(np.where(sound, curvature, 1.0)), 1.0)
            scale = np.minimum(scale, widest)
            step = 0.1 * scale
        return dataclasses.replace(self, scale=scale)


def bayes(  # noqa: PLR0913
    model: AbstractExactModel,
    data: Any,
    *,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    fixed: Callable[[Any], Any] | None = None,
    prior: Any = None,
    random_state: int | None = 0,
) -> BayesTarget:
    r"""The posterior of a model's parameters, its latents integrated out exactly, as a target.

    .. math:: \log p(\theta \mid x) = \sum_i w_i \log p_\theta(x_i) + \log p(\theta) - \log p(x)

    Args:
        model: an exact model, as for :func:`minorant.fit`; it is fitted first, and the climb over
            the posterior begins there.
        data: (n, d) table; NaN where a cell is missing.
        weights: (n,) row weights, or None.
        labels: (n,) known components, -1 where unknown, or None.
        groups: (n,) sequence or cluster of each row, or None.
        inputs: (n, m) known covariates, or None.
        fixed: selects the parameters that keep their given value, as for :func:`minorant.fit`.
        prior: beside the model's own priors: a dict of distributions by name
            (``{"coefficients": dist.Normal(0, 10)}``; anything with ``log_prob``), or a function
            of the model that returns a log density, in nats. What has no prior has a flat one in
            its values: of matrices in the entries on and below the diagonal.
        random_state: seed of the fit.

    Returns:
        The target. ``target.names`` are the names of its unknowns, the paths of the model's learned
        fields; ``target.model(values)`` is the model at a draw.

    Raises:
        ValueError: for data that cannot be used, a prior for what is not learned, or a model with
            nothing to learn.
        TypeError: for a prior that is none, or a model whose parameters are not unknown.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.models import Mixture
        >>> model = Mixture(minorant.components.Poisson(), n_components=1)
        >>> target = minorant.targets.bayes(model, np.array([[3.0], [5.0], [4.0]]))
        >>> target.names, target.size
        (('component.rate',), 1)

    Not for: flat priors where the data alone do not make the posterior proper (a mixture's
    component that may be empty, a loading matrix that may turn): give priors. Models that are the
    same after their components are renamed, or their factors turned, have several equal modes; one
    of them is described. A model's own priors drop their constants, and the evidence with them.
    """
    if isinstance(model, AbstractExactModel) and model.integrates_parameters():
        raise TypeError(
            f"{type(model).__name__} has a posterior of its parameters already: minorant.fit finds "
            "it. Give bayes the model whose parameters are unknown, such as minorant.Mixture."
        )
    with precision(np.dtype(np.float64)):
        found = fitting.fit(
            model, data, weights=weights, labels=labels, groups=groups, inputs=inputs, fixed=fixed,
            random_state=random_state, progress=False,
        )  # fmt: skip
        whole = found.model.stabilised(np.inf)
        empty = whole.allows_empty_rows()
        table, names = as_table(data, weights, labels, groups, inputs, empty_rows=empty)
        units = Affine.identity(len(names))
        source, _ = climbed_blocks(whole, table, units, np.dtype(np.float64))
        target = _started(whole, found.fixed, source, prior)
    alike = groups is None and inputs is None and not whole.is_grouped()
    return dataclasses.replace(target, n_rows=len(table.values) if alike else None)


def _started(model: Any, fixed: PyTree | None, source: ArraySource, prior: Any) -> BayesTarget:
    """The target at the model's parameters, in units of its curvature there."""
    names, places, unknowns, free = [], [], [], []
    for place, (name, leaf, constraint, held) in enumerate(_leaves(model, fixed)):
        value = inside(constraint, leaf) if constraint is not None and not held.any() else leaf
        unknown = None if constraint is None else unknown_of(constraint, value, held)
        if unknown is not None and unknown.size:
            names, places = [*names, name], [*places, place]
            unknowns.append(unknown)
            free.append(np.asarray(unknown.free(jnp.asarray(value), {})))
    if not names:
        raise ValueError("The model has nothing to learn: every parameter is fixed.")
    centre = np.nan_to_num(np.concatenate(free), posinf=30.0, neginf=-30.0)
    target = BayesTarget(
        model, tuple(unknowns), source, centre, np.ones(len(centre)), tuple(names), tuple(places),
        Prior(prior, tuple(names)),
    )  # fmt: skip
    return dataclasses.replace(target, entries=largest_array(target)).scaled()


def _leaves(model: Any, fixed: PyTree | None) -> list[tuple[str, np.ndarray, Any, np.ndarray]]:
    """Name, value, constraint and mask of every array of the model."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model)
    masks = [False] * len(paths) if fixed is None else jax.tree.leaves(fixed)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(leaf), c, np.array(m))
        for (path, leaf), c, m in zip(paths, leaf_constraints(model), masks, strict=True)
    ]


def _log_evidence(source: ArraySource, model: Any) -> Float[Array, ""]:
    """Summed over blocks, of which the backward pass recomputes one at a time."""
    prepared, total = model.prepare(), jnp.zeros(())

    def block(parameters: tuple[Any, PyTree], rows: Rows) -> Float[Array, ""]:
        per_row = parameters[0].log_evidence(rows, parameters[1])
        return jnp.where(rows.weight > 0, rows.weight * per_row, 0.0).sum()

    def step(before: Array, rows: Rows) -> tuple[Array, None]:
        return before + jax.checkpoint(block)((model, prepared), rows), None

    for segment in source.segments:
        if segment.capacity() == 1:
            first = jax.tree.map(lambda leaf: leaf[0], segment.rows)
            total = total + block((model, prepared), first)
        else:
            total = jax.lax.scan(step, total, segment.rows)[0]
    return total


def _widest(unknown: AbstractUnknown) -> np.ndarray:
    """The most that coordinates are scaled by: logarithms little, or the start would overflow."""
    if isinstance(unknown, Assembled):
        parts = [_widest(part) for part in unknown.parts]
        return np.concatenate(parts) if parts else np.zeros(0)
    return np.full(unknown.size, np.inf if isinstance(unknown, Real) else 2.0)


def _curvatures(target: BayesTarget, step: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Minus the second derivatives at the start in the unknowns' own coordinates."""
    p = target.size
    moves = np.concatenate([np.diag(step), -np.diag(step)])
    padded = np.concatenate([moves, np.zeros((-len(moves) % POINTS, p))])
    unscaled = dataclasses.replace(target, scale=np.ones(p))
    parts = [looked_at(unscaled, part)[1] for part in padded.reshape(-1, POINTS, p)]
    gradients = np.concatenate(parts)[: 2 * p]
    return (np.diagonal(gradients[p:]) - np.diagonal(gradients[:p])) / (2 * step)
