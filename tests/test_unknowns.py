"""Unknowns: free coordinates to values and back, Jacobians, bounds that depend, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minorant import unknowns
from minorant.targets import Target

LOWER = np.tril_indices(3)
BELOW = np.tril_indices(3, -1)
EVERY = np.arange(2)
CASES = {
    "real": (unknowns.real(2, 3), lambda x: x),
    "positive": (unknowns.positive(3), lambda x: x),
    "below": (unknowns.interval(None, 2.0, 2), lambda x: x),
    "above": (unknowns.interval(np.array([1.0, -4.0]), None, 2), lambda x: x),
    "between": (unknowns.interval(-1.0, np.array([0.5, 3.0]), 2), lambda x: x),
    "simplex": (unknowns.simplex(2, 4), lambda x: x[:, :-1]),
    "ordered": (unknowns.ordered(2, 3), lambda x: x),
    "correlation": (unknowns.correlation(3), lambda x: x[BELOW]),
    "correlations": (unknowns.Correlation((2, 3, 3)), lambda x: x[(EVERY[:, None], *BELOW)]),
    "correlation_factor": (unknowns.correlation_factor(3), lambda x: x[BELOW]),
    "covariance": (unknowns.covariance(3), lambda x: x[LOWER]),
    "covariances": (unknowns.Covariance((2, 3, 3)), lambda x: x[(EVERY[:, None], *LOWER)]),
    "covariance_factor": (unknowns.covariance_factor(3), lambda x: x[LOWER]),
}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def looked_at(unknown, entries, free):
    """Value, stated log Jacobian, that of automatic differentiation, and the way back."""

    @jax.jit
    def look(free):
        value, stated = unknown.value(free, {})
        slopes = jax.jacfwd(lambda u: jnp.ravel(entries(unknown.value(u, {})[0])))(free)
        return value, stated, jnp.linalg.slogdet(slopes)[1], unknown.free(value, {})

    return jax.device_get(look(free))


def test_free_value_and_jacobian_agree(case):
    unknown, entries = case
    free = np.random.default_rng(0).normal(0, 0.8, unknown.size)
    value, stated, differentiated, back = looked_at(unknown, entries, free)
    assert value.shape == unknown.shape
    np.testing.assert_allclose(stated, differentiated, atol=1e-11)
    np.testing.assert_allclose(back, free, atol=1e-11)


def test_values_obey_their_constraints():
    rng = np.random.default_rng(1)

    def at(unknown):
        return np.asarray(unknown.value(rng.normal(0, 2, unknown.size), {})[0])

    simplex = at(unknowns.simplex(5))
    assert simplex.min() > 0
    assert simplex.sum() == pytest.approx(1.0, abs=1e-14)
    assert (np.diff(at(unknowns.ordered(4))) > 0).all()
    correlation = at(unknowns.correlation(4))
    np.testing.assert_allclose(np.diag(correlation), 1.0, atol=1e-14)
    assert np.linalg.eigvalsh(correlation).min() > 0
    assert np.linalg.eigvalsh(at(unknowns.covariance(4))).min() > 0


def test_transforms_are_those_of_numpyro_where_the_maps_are_the_same():
    transforms = pytest.importorskip("numpyro.distributions.transforms")
    same = [
        (unknowns.correlation_factor(4), transforms.CorrCholeskyTransform()),
        (unknowns.ordered(4), transforms.OrderedTransform()),
        (unknowns.positive(3), transforms.ExpTransform()),
    ]
    rng = np.random.default_rng(2)
    for unknown, other in same:
        free = rng.normal(size=unknown.size)
        value, log_jacobian = unknown.value(free, {})
        theirs = other(free)
        np.testing.assert_allclose(value, theirs, atol=1e-12)
        expected = np.sum(other.log_abs_det_jacobian(free, theirs))
        np.testing.assert_allclose(log_jacobian, expected, atol=1e-11)
    # The same up to the order of coordinates:
    other = transforms.LowerCholeskyTransform()
    value, log_jacobian = unknowns.covariance_factor(3).value(rng.normal(size=6), {})
    expected = other.log_abs_det_jacobian(other.inv(value), value)
    np.testing.assert_allclose(log_jacobian, expected, atol=1e-11)


def test_a_density_of_a_bounded_number_integrates_to_one_over_free_space():
    unknown, grid = unknowns.interval(0.0, 2.0), np.linspace(-40, 40, 4001)
    value, log_jacobian = jax.vmap(lambda u: unknown.value(u[None], {}))(grid)
    density = 6.0 * (value / 2.0) * (1.0 - value / 2.0) / 2.0  # Beta(2, 2) on (0, 2)
    assert float(np.trapezoid(density * np.exp(log_jacobian), grid)) == pytest.approx(1, abs=1e-9)


def test_a_wishart_density_integrates_to_one_over_free_space():
    """A (2, 2) Wishart with 4 degrees of freedom, on a grid of its three free coordinates."""
    unknown = unknowns.covariance(2)
    axes = [np.linspace(-7, 3, 61), np.linspace(-9, 9, 121), np.linspace(-7, 3, 61)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    @jax.jit
    def density(free):
        value, log_jacobian = unknown.value(free, {})
        determinant = value[0, 0] * value[1, 1] - value[0, 1] ** 2
        log_p = 0.5 * jnp.log(determinant) - 0.5 * jnp.trace(value)
        return jnp.exp(log_p + log_jacobian)

    cell = np.prod([axis[1] - axis[0] for axis in axes])
    log_constant = 4 * np.log(2) + 0.5 * np.log(np.pi)  # multivariate gamma at 2: pi^.5 G(2) G(1.5)
    log_constant += np.log(np.sqrt(np.pi) / 2)
    total = float(np.sum(jax.vmap(density)(points))) * cell / np.exp(log_constant)
    assert total == pytest.approx(1.0, abs=1e-6)


def test_correlation_is_uniform_under_its_own_density():
    """Flat over (3, 3) correlation matrices: their volume is pi^2 / 2 (Joe, 2006, theorem 4)."""
    unknown, grid = unknowns.correlation(3), np.linspace(-12, 12, 97)
    points = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    log_jacobian = jax.jit(jax.vmap(lambda u: unknown.value(u, {})[1]))(points)
    volume = float(np.exp(log_jacobian).sum()) * (grid[1] - grid[0]) ** 3
    assert volume == pytest.approx(np.pi**2 / 2, rel=1e-6)


def test_a_bound_may_depend_on_an_unknown_before_it():
    def log_density(a, b):
        return jnp.log(6.0) + jnp.log1p(-a - b)  # Dirichlet(1, 1, 2)

    target = Target(
        log_density,
        a=unknowns.interval(0, 1),
        b=unknowns.interval(0, lambda known: 1 - known["a"]),
    )
    free, log_jacobian = target.free({"a": 0.25, "b": 0.5})
    values = target.values(free)
    assert float(values["b"]) == pytest.approx(0.5)
    # da = a(1-a) du, db = b (1 - a - b) / (1 - a) dv
    expected = np.log(0.25 * 0.75) + np.log(0.5 * 0.25 / 0.75)
    assert float(log_jacobian) == pytest.approx(expected)
    assert float(target.log_density(free)) == pytest.approx(np.log(6.0 * 0.25) + expected)


def test_finite_unknowns_run_through_all_values():
    every = unknowns.finite(3, 2).every()
    assert every.shape == (9, 2)
    assert {tuple(row) for row in every} == {(i, j) for i in range(3) for j in range(3)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: unknowns.interval(None, None), "one side at least"),
        (lambda: unknowns.interval(1, 0), "low < high; got 1 and 0"),
        (lambda: unknowns.interval(0, np.inf), "high must be finite; got inf"),
        (lambda: unknowns.interval(np.zeros(3), 1, 2), r"shape \(2,\); its own is \(3,\)"),
        (lambda: unknowns.real(-1), r"real takes lengths, .* got -1"),
        (lambda: unknowns.positive(2.5), "positive takes lengths"),
        (lambda: unknowns.real([2, 3]), r"real\(3, 2\); got \[2, 3\]"),
        (lambda: unknowns.simplex(1), "last axis of at least 2"),
        (lambda: unknowns.ordered(), "ordered needs a last axis"),
        (lambda: unknowns.correlation(1), "correlation needs"),
        (lambda: unknowns.finite(1), "at least two values; got k = 1"),
    ],
)
def test_an_impossible_unknown_is_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
