"""Charts of a model's fields against the generic bijection, and what a start is moved to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minorant import _parameters
from minorant.components.categorical import Simplices
from minorant.models._curves import Decreasing, Masked
from minorant.models._trait_scale import Covariances, Means
from minorant.models.transition_logits import FreeMoves
from minorant.models.transitions import AllowedSimplex
from minorant.targets import _charts

FREE = np.zeros((), bool)
LEFT_RIGHT = ((True, True, False), (False, True, True), (False, False, True))


def covariances(rng, n, d):
    root = rng.normal(size=(n, d, d))
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(d)


def probabilities(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


CASES = {
    "simplex": (_parameters.Simplex(), lambda rng: probabilities(rng, 2, 3)),
    "interval": (_parameters.Interval(-1.0, 2.0), lambda rng: rng.uniform(-1, 2, 4)),
    "definite": (_parameters.PositiveDefinite(), lambda rng: covariances(rng, 2, 3)),
    "segments": (
        Simplices((2, 3, 2)),
        lambda rng: np.hstack([probabilities(rng, 2, m) for m in (2, 3, 2)]),
    ),
    "left-right": (
        AllowedSimplex(LEFT_RIGHT),
        lambda rng: np.array([[0.3, 0.7, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]),
    ),
    "tied": (
        AllowedSimplex(((True, True, True),) * 3, (0, 1, 0)),
        lambda rng: probabilities(rng, 2, 3)[[0, 1, 0]],
    ),
    "masked": (
        Masked(np.array([[1.0, 0.0], [1.0, 1.0]])),
        lambda rng: np.array([[0.5, 0.0], [-1.0, 2.0]]),
    ),
    "decreasing": (Decreasing(), lambda rng: -np.sort(-rng.normal(size=(2, 3)))),
    "means": (Means(), lambda rng: np.array([[0.0, 0.0], [1.0, -2.0]])),
    "traits fixed": (
        Covariances("fixed"),
        lambda rng: np.concatenate([np.eye(2)[None], covariances(rng, 1, 2)]),
    ),
    "tied moves": (
        FreeMoves(((False, True, True),) * 3, (0, 0, 2)),
        lambda rng: np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, -1.0, 0.5]])[..., None],
    ),
    "moves": (
        FreeMoves(((False, True), (True, False)), (0, 1)),
        lambda rng: np.array([[[0.0, 0.0], [1.0, 2.0]], [[0.5, -1.0], [0.0, 0.0]]]),
    ),
}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", CASES)
def test_a_chart_weighs_volume_as_the_generic_one_does(name):
    """Both map free vectors to values; the ratio of volumes is that of the maps between them.

    With u and t the two free vectors of a value, ``log|dx/du| - log|dx/dt| = log|dt/du|``.
    """
    constraint, make = CASES[name]
    value = make(np.random.default_rng(0))
    chart = _charts.unknown_of(constraint, value, FREE)
    generic = _charts.generic(constraint, value)
    assert chart.size == generic.size == constraint.count(value.shape)

    @jax.jit
    def look(free):
        x, stated = chart.value(free, {})
        turned = jax.jacfwd(lambda u: generic.free(chart.value(u, {})[0], {}))(free)
        other, theirs = generic.value(generic.free(x, {}), {})
        return x, other, stated, theirs + jnp.linalg.slogdet(turned)[1], chart.free(x, {})

    free = np.asarray(chart.free(jnp.asarray(value), {}))
    moved = free + np.random.default_rng(1).normal(0, 0.3, len(free))
    x, other, stated, expected, back = jax.device_get(look(moved))
    np.testing.assert_allclose(chart.value(free, {})[0], value, atol=1e-12)
    np.testing.assert_allclose(x, other, atol=1e-10)
    np.testing.assert_allclose(stated, expected, atol=1e-9)
    np.testing.assert_allclose(back, moved, atol=1e-10)


def test_correlated_traits_of_the_first_group():
    """A group's correlation matrix and another's covariance: sizes, values, and the way back."""
    value = np.array([[[1.0, 0.4], [0.4, 1.0]], [[2.0, -0.3], [-0.3, 0.5]]])
    chart = _charts.unknown_of(Covariances("correlation"), value, FREE)
    free = np.asarray(chart.free(jnp.asarray(value), {}))
    assert chart.size == 4
    np.testing.assert_allclose(chart.value(free, {})[0], value, atol=1e-12)


def test_what_is_held_stays_and_the_rest_is_free():
    value, held = np.array([0.2, 0.5, 0.3]), np.array([True, False, False])
    chart = _charts.unknown_of(_parameters.Simplex(), value, held)
    assert chart.size == 1
    at = lambda u: chart.value(u, {})  # noqa: E731
    moved, stated = at(jnp.array([0.7]))
    assert float(moved[0]) == 0.2
    assert float(moved.sum()) == pytest.approx(1.0)
    slope = jax.jacfwd(lambda u: at(u)[0][1])(jnp.array([0.7]))
    assert float(stated) == pytest.approx(float(jnp.log(jnp.abs(slope[0]))))
    np.testing.assert_allclose(at(chart.free(jnp.asarray(value), {}))[0], value, atol=1e-12)


def test_rows_of_a_field_may_be_held_and_bound_parts_may_not():
    chart = _charts.unknown_of(
        _parameters.Positive(), np.array([[1.0], [2.0]]), np.array([1, 0]) > 0
    )
    np.testing.assert_allclose(chart.value(jnp.array([0.0]), {})[0], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="hold all of it, or none"):
        _charts.unknown_of(Decreasing(), np.zeros((2, 2)), np.array([True, False]))
    assert _charts.unknown_of(_parameters.Real(), np.zeros(2), np.ones((), bool)) is None


@pytest.mark.parametrize(
    ("constraint", "edge"),
    [
        (_parameters.Simplex(), np.array([1.0, 0.0])),
        (Simplices((2, 2)), np.array([[1.0, 0.0, 0.5, 0.5]])),
        (AllowedSimplex(((True, True), (False, True))), np.array([[1.0, 0.0], [0.0, 1.0]])),
        (_parameters.Positive(), np.array([0.0, 2.0])),
        (_parameters.Interval(), np.array([0.0, 1.0])),
        (_parameters.PositiveDefinite(), np.array([[1.0, 1.0], [1.0, 1.0]])),
    ],
)
def test_a_start_on_the_edge_is_moved_inside(constraint, edge):
    value = _charts.inside(constraint, edge)
    chart = _charts.unknown_of(constraint, value, FREE)
    assert np.isfinite(np.asarray(chart.free(jnp.asarray(value), {}))).all()
    np.testing.assert_allclose(value, edge, atol=1e-3)
