"""The truncated E-step: a true lower bound, the full step where lists hold everything, measured."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import special, stats

import minorant
from minorant import _config
from minorant._types import Rows
from minorant.components import Diagonal, Full, Gaussian, Poisson, Spherical, Tied
from minorant.data.paired import PairedRows, PairedSource, neighbourly, paired
from minorant.data.tables import as_table
from minorant.estimators import GaussianMixture
from minorant.lists import first_lists, new_lists, shared_out
from minorant.posteriors import Truncated
from minorant.preparation import prepare
from minorant.solvers import EM, Anderson, Problem, QuasiNewton
from minorant.solvers.starts import Starts
from minorant.solvers.truncated_em import TruncatedEM

K, D, N = 7, 2, 300
RNG = np.random.default_rng(5)
MEANS = RNG.normal(size=(K, D)) * 1.5
ROOTS = RNG.normal(size=(K, D, D)) * 0.7
MATRICES = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.2 * np.eye(D)
SHARES = RNG.dirichlet(np.full(K, 4.0))
LABELS = RNG.choice(K, N, p=SHARES)
ROWS = MEANS[LABELS] + np.einsum("nij,nj->ni", ROOTS[LABELS], RNG.normal(size=(N, D)))
WEIGHTS = RNG.integers(0, 4, N).astype(float)
LISTS = np.stack([RNG.choice(K, 3, replace=False) for _ in range(N)])
LISTS[::3, 2] = K  # these rows have two components
STRUCTURES = {
    "full": (Full(), MATRICES),
    "tied": (Tied(), MATRICES.mean(0)),
    "diagonal": (Diagonal(), np.diagonal(MATRICES, axis1=1, axis2=2).copy()),
    "spherical": (Spherical(), np.full(K, 0.6)),
}


def gaussian(kind):
    structure, covariance = STRUCTURES[kind]
    component = Gaussian(structure, MEANS, covariance, floor=np.full(D, 1e-9))
    return minorant.Mixture(component, SHARES, n_components=K)


def poisson():
    rate = np.exp(RNG.normal(size=(K, D)))
    return minorant.Mixture(Poisson(rate), SHARES, n_components=K)


def source_of(rows, weights, lists, dtype=float):
    pairs = paired(lists, lists < K, K, lists.size)
    held = PairedRows(rows.astype(dtype), weights.astype(dtype), pairs=pairs)
    return PairedSource(held, np.asarray(weights.sum(), dtype))


def looked(model, source):
    """Bound and next model of one pass."""
    solver, problem = TruncatedEM(EM()), Problem(model, source)

    @jax.jit
    def step(problem):
        state = solver.init(problem)
        found = problem.source.fold(solver.look, solver.asks(problem, state))
        return found.bound, problem.model.maximise(found.statistics)

    return step(problem)


def log_joint(model, rows):
    """(n, k), slowly, by another library."""
    if isinstance(model.component, Poisson):
        logs = stats.poisson(model.component.rate).logpmf(rows[:, None, :]).sum(2)
    else:
        parts = model.component
        every = np.asarray(parts.structure.matrices(np.asarray(parts.covariance), K, D))
        normals = map(stats.multivariate_normal, MEANS, np.broadcast_to(every, (K, D, D)))
        logs = np.stack([normal.logpdf(rows) for normal in normals], 1)
    return logs + np.log(SHARES)


def listed(scores, lists):
    """-inf for all that is not on a row's list."""
    allowed = np.zeros((len(scores), K + 1), bool)
    np.put_along_axis(allowed, lists, True, axis=1)
    return np.where(allowed[:, :K], scores, -np.inf)


@pytest.fixture(params=[*STRUCTURES, "poisson"])
def case(request):
    if request.param == "poisson":
        return poisson(), RNG.poisson(2.0, (N, D)).astype(float)
    return gaussian(request.param), ROWS


def test_bound_and_next_model_are_those_of_the_lists(case, float64):
    model, rows = case
    scores = listed(log_joint(model, rows), LISTS)
    lower = special.logsumexp(scores, axis=1)
    form = model.stabilised(np.inf)
    bound, after = looked(form, source_of(rows, WEIGHTS, LISTS))
    np.testing.assert_allclose(bound, WEIGHTS @ lower, rtol=1e-12)
    assert bound < WEIGHTS @ special.logsumexp(log_joint(model, rows), axis=1)
    chances = np.exp(scores - lower[:, None]) * WEIGHTS[:, None]
    count = chances.sum(0)
    np.testing.assert_allclose(after.weights, count / count.sum(), rtol=1e-10)
    means = chances.T @ rows / count[:, None]
    if isinstance(model.component, Poisson):
        np.testing.assert_allclose(after.component.rate, means, rtol=1e-10)
        return
    np.testing.assert_allclose(after.component.mean, means, rtol=1e-9, atol=1e-12)
    away = rows[:, None] - means
    second = np.einsum("nk,nki,nkj->kij", chances, away, away)
    expected = spread(model.component.structure, second, count)
    np.testing.assert_allclose(after.component.covariance, expected, rtol=1e-8, atol=1e-12)


def spread(structure, second, count):
    """The covariance in its structure's shape."""
    if isinstance(structure, Tied):
        return second.sum(0) / count.sum()
    each = second / count[:, None, None]
    diagonal = np.diagonal(each, axis1=1, axis2=2)
    by_kind = {Full: each, Diagonal: diagonal, Spherical: diagonal.mean(1)}
    return by_kind[type(structure)]


def test_lists_of_all_components_are_the_full_step(dtype):
    model = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), gaussian("full"))
    every = np.argsort(RNG.random((N, K)), axis=1)
    bound, after = looked(model.stabilised(np.inf), source_of(ROWS, WEIGHTS, every, dtype))
    exact = WEIGHTS @ special.logsumexp(log_joint(gaussian("full"), ROWS), axis=1)
    tight = dtype == np.float64
    np.testing.assert_allclose(bound, exact, rtol=1e-12 if tight else 1e-6)
    rows = Rows(ROWS.astype(dtype), WEIGHTS.astype(dtype))
    full = jax.jit(lambda m, r: m.maximise(m.expectation(r, m.prepare()).statistics))(model, rows)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9 if tight else 2e-3, atol=1e-6)


def test_pairs_are_all_there_once():
    kept = LISTS < K
    pairs = paired(LISTS, kept, K, LISTS.size)
    np.testing.assert_array_equal(pairs.lists(K), LISTS)
    row = pairs.row.ravel()[pairs.place[kept]]
    np.testing.assert_array_equal(row, np.nonzero(kept)[0])
    assert len(np.unique(pairs.place[kept])) == kept.sum() == pairs.filled.sum()
    assert pairs.filled[pairs.n_blocks :].sum() == 0
    assert (pairs.place[~kept] == pairs.row.size).all()


def test_lists_are_longer_where_more_components_count():
    chance = -np.sort(-RNG.dirichlet(np.full(K, 0.3), N), axis=1).astype(np.float32)
    chance[::50] = np.eye(1, K)  # one component alone
    kept = shared_out(chance, np.ones(N), 2)
    assert kept[:, 0].all()
    assert kept.sum() == 2 * N
    assert chance[:, 1:][kept[:, 1:]].min() >= chance[:, 1:][~kept[:, 1:]].max()
    heavy = shared_out(chance, WEIGHTS + 1, 2)
    copies = shared_out(
        chance.repeat(WEIGHTS.astype(int) + 1, axis=0), np.ones(int(WEIGHTS.sum()) + N), 2
    )
    np.testing.assert_array_equal(heavy.repeat(WEIGHTS.astype(int) + 1, axis=0), copies)
    assert not shared_out(np.eye(1, K, dtype=np.float32).repeat(5, 0), np.ones(5), 3)[:, 1:].any()


def test_neighbours_in_order_are_near():
    points = RNG.normal(size=(64, 2))
    place = neighbourly(points)
    np.testing.assert_array_equal(np.sort(place), np.arange(64))
    steps = np.diff(points[np.argsort(place)], axis=0)
    assert (
        np.linalg.norm(steps, axis=1).mean()
        < 0.5 * np.linalg.norm(points[:, None] - points, axis=2).mean()
    )


@pytest.fixture(scope="module")
def near():
    """A table in memory, and the model in the units it is computed in."""
    with _config.precision(np.dtype(float)):
        return prepare(gaussian("full"), *as_table(ROWS, WEIGHTS, None, None, None))


def row_scores(prepared, source):
    """(n, k) of the source's rows, in its units, by another library."""
    model = prepared.template.component
    normals = map(stats.multivariate_normal, model.mean, model.covariance)
    logs = [normal.logpdf(source.rows.values) for normal in normals]
    return np.stack(logs, 1) + np.log(prepared.template.weights)


def bound(prepared, source):
    """The truncated bound of the source's rows, and their bound with all components."""
    scores, weight = row_scores(prepared, source), source.rows.weight
    lower = special.logsumexp(listed(scores, source.rows.pairs.lists(K)), axis=1)
    return weight @ lower, weight @ special.logsumexp(scores, axis=1)


@pytest.mark.parametrize("c", [1, 3])
def test_first_lists_lose_less_than_lists_of_one_length(near, c, float64):
    source, slots, _ = first_lists(near.source.segments[0], near.template, c)
    scores, weight = row_scores(near, source), source.rows.weight
    equal = weight @ special.logsumexp(-np.sort(-scores, axis=1)[:, :c], axis=1)
    chosen, _ = bound(near, source)
    assert chosen > equal if c > 1 else chosen == pytest.approx(equal, rel=1e-12)
    room = c * weight.sum()
    assert room - weight.max() < weight @ (source.rows.pairs.lists(K) < K).sum(1) <= room
    assert len(slots) == (WEIGHTS > 0).sum()
    flat = near.source.segments[0].rows
    np.testing.assert_array_equal(flat.values.reshape(-1, D)[slots], source.rows.values)
    np.testing.assert_array_equal(flat.weight.ravel()[slots], source.rows.weight)


def test_new_lists_find_what_is_better_and_say_by_how_much(near, float64):
    model = near.template
    source, _, _ = first_lists(near.source.segments[0], model, 3)
    n = len(source.rows.weight)
    poor = np.full((n, 6), K)
    poor[:, :3] = [RNG.choice(K, 3, replace=False) for _ in range(n)]
    pairs = paired(poor, poor < K, K, 3 * n)
    held = PairedRows(source.rows.values, source.rows.weight, pairs=pairs)
    source = PairedSource(held, source.total_weight)
    before, exact = bound(near, source)
    after, order, gain = new_lists(source, (model.stabilised(np.inf), model), 3, 4, 1)
    np.testing.assert_array_equal(after.rows.values, source.rows.values[order])
    lists = after.rows.pairs.lists(K)
    assert all(len(set(one[one < K])) == (one < K).sum() for one in lists)
    now, _ = bound(near, after)
    assert gain == pytest.approx(now - before, rel=1e-5)
    assert exact - now < 0.2 * (exact - before)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(12, 2)) * 3
    rows = centres[rng.integers(0, 12, 600)] + rng.normal(size=(600, 2)) * 0.6
    return rows, rng.integers(1, 3, 600).astype(float)


@pytest.fixture(scope="module")
def climbed(table):
    rows, weights = table
    model = minorant.Mixture(Gaussian(), n_components=12)
    with _config.precision(np.dtype(float)):
        fits = {
            c: minorant.fit(model, rows, weights=weights, posterior=Truncated(c), tolerance=1e-5)
            for c in (2, 4)
        }
        again = minorant.fit(model, rows, weights=weights, posterior=Truncated(2), tolerance=1e-5)
    return fits, again


def test_the_climb_never_falls_and_ends_below_the_evidence(climbed, table, float64):
    fits, again = climbed
    for found in fits.values():
        assert found.outcome.ok
        assert np.diff(found.trace.bound).min() >= -1e-9 * abs(found.bound)
        exact = found.evidence(table[0]).rows_estimate @ table[1]
        np.testing.assert_allclose(found.truncation.log_evidence.value, exact, rtol=1e-10)
        assert found.bound < exact
        assert found.truncation.loss.value == pytest.approx(exact - found.bound, abs=1e-6)
        assert "truncated" in found.explanation
        assert "log p(X) >=" in str(found)
    np.testing.assert_array_equal(fits[2].trace.bound, again.trace.bound)


def test_longer_lists_lose_less(climbed):
    fits, _ = climbed
    assert fits[4].truncation.loss.value < 0.2 * fits[2].truncation.loss.value


def test_a_climb_goes_on_with_lists(climbed, table, float64):
    whole = climbed[0][4]
    further = minorant.resume(whole, table[0], weights=table[1], tolerance=1e-5)
    assert further.truncation.posterior == whole.truncation.posterior
    assert further.bound >= whole.bound - 1e-9 * abs(whole.bound)


def test_a_saved_fit_still_says_what_was_lost(climbed, tmp_path):
    whole = climbed[0][4]
    minorant.save(whole, tmp_path / "fit")
    assert minorant.load(tmp_path / "fit").truncation == whole.truncation


def test_a_climb_is_as_good_as_the_full_one_from_there(climbed, table, float64):
    start = climbed[0][4]
    full = minorant.fit(start.model, table[0], weights=table[1], tolerance=1e-5)
    gained = full.bound - start.truncation.log_evidence.value
    assert -1e-6 < gained < 1e-2 * table[1].sum()


def test_the_loss_can_be_estimated_from_some_rows(climbed, table, float64):
    whole = climbed[0][2]
    q = Truncated(2, measured_rows=300)
    some = minorant.fit(whole.model, table[0], weights=table[1], posterior=q, max_steps=1)
    exact = some.evidence(table[0]).rows_estimate @ table[1] - some.bound
    value, error = some.truncation.loss
    assert 0 < error < exact
    assert abs(value - exact) < 4 * error


def test_weights_are_copies(table, float64):
    rows, weights = table
    model = minorant.Mixture(
        Gaussian(mean=rows[:5], covariance=np.stack([np.eye(2)] * 5)),
        np.full(5, 0.2),
        n_components=5,
    )
    options = {"posterior": Truncated(2), "solver": EM(Anderson(), 1e-3), "max_steps": 3}
    one = minorant.fit(model, rows, weights=weights, **options)
    other = minorant.fit(model, np.repeat(rows, weights.astype(int), axis=0), **options)
    np.testing.assert_allclose(one.trace.bound, other.trace.bound, rtol=1e-9)


def test_single_precision_climbs_alike(climbed, table, float32):
    wide = climbed[0][4]
    rows = table[0].astype(np.float32)
    options = {"weights": table[1], "posterior": Truncated(4), "max_steps": 1}
    found = minorant.fit(wide.model, rows, **options)
    assert found.dtype == "float32"
    assert found.bound == pytest.approx(wide.bound, rel=1e-4)


def test_a_component_that_collapsed_is_named_with_its_rows(float64):
    rows = np.concatenate([ROWS, np.full((9, 2), 30.0)])
    start = minorant.Mixture(
        Gaussian(mean=[[0, 0], [1, 1], [30, 30]], covariance=[np.eye(2)] * 3),
        np.full(3, 1 / 3),
        n_components=3,
    )
    found = minorant.fit(start, rows, posterior=Truncated(2), fixed=lambda m: m.weights)
    (one,) = found.degenerate
    assert (one.component, one.rows) == (2, tuple(range(N, N + 9)))
    np.testing.assert_array_equal(found.model.weights, start.weights)


MIXTURE = minorant.Mixture(Gaussian(), n_components=3)


@pytest.mark.parametrize(
    ("model", "change", "error", "said"),
    [
        (MIXTURE, {"posterior": Truncated(4)}, ValueError, "more than the mixture's 3"),
        (MIXTURE, {"labels": np.zeros(N, int)}, ValueError, "no known labels"),
        (MIXTURE, {"remedy": "merge"}, ValueError, "remedy='merge'"),
        (MIXTURE, {"starts": Starts(2)}, ValueError, "one start; got starts of 2"),
        (MIXTURE, {"solver": QuasiNewton()}, TypeError, "climbed by minorant.EM"),
        (minorant.models.FactorAnalysis(n_factors=1), {}, TypeError, "got FactorAnalysis"),
    ],
)
def test_what_has_no_lists_is_refused(model, change, error, said):
    with pytest.raises(error, match=said):
        minorant.fit(model, ROWS, **({"posterior": Truncated(2)} | change))


def test_missing_cells_are_refused():
    rows = ROWS.copy()
    rows[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 misses a cell"):
        minorant.fit(MIXTURE, rows, posterior=Truncated(2))


@pytest.mark.parametrize("name", ["components", "searched", "measured_rows"])
def test_lengths_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        Truncated(**{name: 0})


def test_the_estimator_asks_for_lists(table):
    rows, weights = table
    options = {"tol": 1e-3, "random_state": 0}
    short = GaussianMixture(12, truncated=3, **options).fit(rows, sample_weight=weights)
    found = short.fit_.truncation
    assert found.posterior == Truncated(3)
    assert short.lower_bound_ == pytest.approx(found.bound / weights.sum())
    assert short.score(rows, sample_weight=weights) > short.lower_bound_ - 1e-9
    with pytest.raises(ValueError, match="'truncated' parameter of GaussianMixture must be an int"):
        GaussianMixture(12, truncated=0).fit(rows)
    with pytest.raises(ValueError, match="one start"):
        GaussianMixture(12, truncated=3, n_init=2).fit(rows)
