"""What the laws share: the one test of a climb, rows from arrays, and one compiled look at a model.

``examine`` returns everything that most laws speak of from one compiled program, so that a model of
the table is compiled once for each float type and shape of rows, not once for each law.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import truth
from cases import ModelCase

from minorant._parameters import from_vector, leaf_constraints, to_vector
from minorant._types import Affine, Rows
from minorant.data import ArraySource, arrange
from minorant.data.arrays import Table
from minorant.posteriors import Categorical
from minorant.preparation import cast

K, N = 4, 120  # k differs from d = 3: a swapped axis cannot hide

# The laws are about values, not speed: the machine code is left unoptimised, which halves the time
# that compiling takes. What ``minorant.fit`` compiles, the tests of fits compile as users do.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def assert_never_decreases(values: Any, slack: Any) -> None:
    """Fail unless every value is finite and at least its predecessor less ``slack``.

    Args:
        values: at least two numbers in the order of the climb.
        slack: how far rounding alone may lower a value; see :func:`rounding`.
    """
    values = np.asarray(values, dtype=float)
    assert values.ndim == 1, values.shape
    assert len(values) >= 2, "a climb has at least two values"
    assert np.all(np.isfinite(values)), values
    steps = np.diff(values)
    worst = int(np.argmin(steps))
    assert np.all(steps >= -slack), (
        f"value {worst + 1} is {-steps[worst]:.3g} lower than value {worst}, slack {slack:.3g}"
    )


def rounding(values: Any, n_terms: float, dtype: Any) -> float:
    """How far rounding may move a sum of ``n_terms`` numbers as large as ``values``.

    ``8 eps (max |value| + n_terms)``: every term of a log density is itself a sum of a few numbers
    of order one, whose rounding errors add.
    """
    largest = float(np.max(np.abs(np.asarray(values, dtype=float))))
    return 8.0 * float(np.finfo(dtype).eps) * (largest + n_terms)


def tolerance(dtype: Any) -> float:
    """Relative error allowed in what should be equal: 1e-9 in float64, 1e-4 in float32."""
    return 1e-9 if np.dtype(dtype) == np.float64 else 1e-4


def assert_trees_close(actual: Any, expected: Any, relative: float) -> None:
    """Every pair of leaves equal to ``relative`` times the largest entry of the expected leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        scale = float(np.max(np.abs(other), initial=1.0))
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Every pair of leaves equal to the last bit, dtype included."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def rows_of(values: Any, dtype: Any, weight: Any = None, labels: Any = None) -> Rows:
    """A block of rows; NaN where a cell is missing."""
    values = np.asarray(values)
    observed = ~np.isnan(values)
    weight = np.ones(len(values)) if weight is None else weight
    return Rows(
        np.where(observed, values, 0.0).astype(dtype),
        np.asarray(weight, dtype=dtype),
        None if observed.all() else observed,
        None if labels is None else np.asarray(labels, dtype=np.int32),
    )


class Scene(NamedTuple):
    """A model of the table in float64, and rows simulated from it by NumPy."""

    case: ModelCase
    model: Any
    values: np.ndarray

    def cast(self, dtype: Any) -> Any:
        """The model in a float type."""
        return cast(self.model, dtype)


@cache
def scene(case: ModelCase, seed: int = 0, n: int = N, missing: bool = False) -> Scene:
    """A seeded model with ``K`` components and ``n`` of its rows; made once, never written to."""
    rng = np.random.default_rng(seed)
    model = case.make(rng, K, case.component.columns)
    labels = rng.choice(K, size=n, p=model.weights)
    values = case.component.simulate(rng, model.component, labels)
    return Scene(case, model, with_gaps(rng, values) if missing else values)


@cache
def true_scores(case: ModelCase, missing: bool = False) -> np.ndarray:
    """The true log joint (k, n) of the scene with the default seed and length."""
    shown = scene(case, missing=missing)
    return truth.log_joint(shown.model, shown.values, case.component.log_prob)


def with_gaps(rng: np.random.Generator, values: np.ndarray, share: float = 0.3) -> np.ndarray:
    """The table with a share of its cells missing, at least one cell of every row kept."""
    n, d = values.shape
    gaps = rng.random((n, d)) < share
    gaps[np.arange(n), rng.integers(d, size=n)] = False
    return np.where(gaps, np.nan, values)


@quick_jit
def _moved(model: Any, noise: Any) -> Any:
    return from_vector(model, to_vector(model) + noise)


def start_near(shown: Scene, dtype: Any, size: float = 0.3, seed: int = 0) -> Any:
    """The scene's model with every free coordinate moved by normal noise: where climbs begin."""
    model = shown.cast(dtype)
    length = sum(leaf.size for leaf in jax.tree.leaves(model))
    noise = size * np.random.default_rng(seed).normal(size=length)
    sizes = zip(jax.tree.leaves(model), leaf_constraints(model), strict=True)
    learned = sum(leaf.size for leaf, constraint in sizes if constraint is not None)
    return _moved(model, noise[:learned].astype(dtype))


class Look(NamedTuple):
    """One pass over the rows at a model, and the EM step that follows."""

    log_joint: Any
    log_evidence: Any
    log_posterior: Any
    bound: Any
    objective: Any
    statistics: Any
    pass_statistics: Any
    stepped: Any


@quick_jit
def examine(model: Any, rows: Rows) -> Look:
    """Everything that the laws ask of a model and a block of rows."""
    prepared = model.prepare()
    posterior = model.posterior(rows, prepared)
    expectation = model.expectation(rows, prepared)
    return Look(
        log_joint=model.log_joint_all(rows, prepared),
        log_evidence=model.log_evidence(rows, prepared),
        log_posterior=posterior.log_probability,
        bound=expectation.bound,
        objective=expectation.bound + model.log_prior(),
        statistics=model.statistics(rows, posterior, prepared),
        pass_statistics=expectation.statistics,
        stepped=model.maximise(expectation.statistics),
    )


@quick_jit
def draw(model: Any, key: Any, like: Any) -> Any:
    """Rows sampled from the model, as many as ``like`` has."""
    return model.sample(key, like.shape[0])[1]


def bound_of(log_joint: Any, q: np.ndarray) -> np.ndarray:
    """``E_q[log p(x, z) - log q(z)]`` per row in NumPy float64, ``0 log 0 = 0``."""
    log_joint = np.asarray(log_joint, dtype=float)
    inside = q > 0
    terms = np.where(inside, q * (log_joint - np.log(np.where(inside, q, 1.0))), 0.0)
    return terms.sum(0)


def as_float(tree: Any) -> Any:
    """Every leaf as a float64 NumPy array."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), tree)


def stacked(*trees: Any) -> Any:
    """Trees of one structure with a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


@quick_jit
def m_step(model: Any, rows: Rows, log_q: Any, fixed: Any) -> Any:
    """The M-step under any q (weights come with the rows), with what ``fixed`` holds held."""
    prepared = model.prepare()
    statistics = model.statistics(rows, Categorical(log_q), prepared)
    return model.maximise(statistics, fixed)


@quick_jit
def expected(model: Any, vector: Any, rows: Rows, q: Any) -> tuple[Any, Any]:
    """``sum_i w_i E_q[log p(x_i, z_i)] + log prior`` and its gradient in free coordinates."""

    def value(vector: Any) -> Any:
        at = from_vector(model, vector)
        scores = at.log_joint_all(rows, at.prepare())
        return (q * rows.weight * scores).sum() + at.log_prior()

    return jax.value_and_grad(value)(vector)


def source_of(values: Any, dtype: Any, weight: Any = None, **keywords: Any) -> ArraySource:
    """A table as a source in its own units; keywords as for ``arrange``."""
    table = Table(np.asarray(values, dtype=float), weight)
    keywords = {"shares_patterns": True, **keywords}
    return arrange(table, Affine.identity(table.values.shape[1]), np.dtype(dtype), **keywords)[0]
