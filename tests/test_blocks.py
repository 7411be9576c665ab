"""Blocks: parts on their own columns, put together again."""

import jax
import numpy as np
import pytest
from helpers import assert_never_decreases, rounding, rows_of

import minorant
from minorant.components import Blocks, Diagonal, Full, Gaussian, Poisson, VonMises
from minorant.solvers import EM, Plain

COLUMNS = ((2, 0), (1,), (3,))


def table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.integers(2, size=n)
    pair = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.4], [0.0, 0.8]]) + 5.0 * z[:, None]
    counts = rng.poisson(np.array([2.0, 9.0])[z])
    angle = rng.vonmises(np.array([0.0, 2.0])[z], 4.0)
    return np.column_stack([pair[:, 1], counts, pair[:, 0], angle]).astype(float)


def template():
    return Blocks((Gaussian(), Poisson(), VonMises()), COLUMNS)


@pytest.fixture(scope="module")
def fit():
    data = table()
    data[::5, 0] = np.nan
    data[::7, 1] = np.nan
    with jax.enable_x64(True):
        model = minorant.Mixture(template(), n_components=2)
        return data, minorant.fit(model, data, solver=EM(Plain()))


def test_the_climb_never_falls(fit):
    data, found = fit
    assert found.outcome.ok
    assert_never_decreases(found.trace.objective, rounding(found.trace.objective, data.size, float))


def test_scores_are_sums_over_parts_and_missing_parts_add_nothing(fit):
    data, found = fit
    blocks = found.model.component
    with jax.enable_x64(True):
        score = jax.jit(lambda c, rows: c.log_prob(rows, c.prepare()))
        total = np.asarray(score(blocks, rows_of(data[:20], float)))
        parts = []
        for part, columns in zip(blocks.parts, COLUMNS, strict=True):
            own = rows_of(data[:20][:, list(columns)], float)
            parts.append(np.asarray(score(part, own)))
        empty = np.asarray(score(blocks, rows_of(np.full((20, 4), np.nan), float)))
    np.testing.assert_allclose(total, sum(parts), rtol=1e-12)
    np.testing.assert_array_equal(parts[1][:, 0], 0.0)  # row 0 misses the count
    np.testing.assert_array_equal(empty, 0.0)


def test_truth_is_recovered(fit):
    _, found = fit
    gaussian, poisson, angles = found.model.component.parts
    order = np.argsort(poisson.rate[:, 0])
    rate = poisson.rate[order, 0]
    assert np.all(np.abs(rate - [2.0, 9.0]) < 4.5 * np.sqrt(np.array([2.0, 9.0]) / 60))
    assert np.all(np.abs(gaussian.mean[order] - [[0, 0], [5, 5]]) < 0.6)
    assert np.all(np.abs(angles.direction[order, 0] - [0.0, 2.0]) < 0.4)


def test_two_diagonal_parts_are_one_diagonal_gaussian():
    data = table()[:, [0, 2]]
    with jax.enable_x64(True):
        whole = minorant.fit(minorant.Mixture(Gaussian(Diagonal()), n_components=2), data)
        split = Blocks((Gaussian(Diagonal()), Gaussian(Diagonal())), ((1,), (0,)))
        parts = minorant.fit(minorant.Mixture(split, n_components=2), data)
    assert parts.bound == pytest.approx(whole.bound, abs=1e-5)
    assert parts.n_parameters == whole.n_parameters


def test_fixed_parts_stay():
    data = table(60)
    rate = np.array([[3.0], [7.0]])
    blocks = Blocks((Gaussian(Full()), Poisson(rate), VonMises()), COLUMNS)
    with jax.enable_x64(True):
        model = minorant.Mixture(blocks, n_components=2)
        fit = minorant.fit(model, data, fixed=lambda m: m.component.parts[1].rate, max_steps=10)
    np.testing.assert_allclose(fit.model.component.parts[1].rate, rate, rtol=1e-12)


def test_embedding_gives_every_column_the_same_weight():
    data = table() * np.array([1e3, 1.0, 1e3, 1.0])
    points = template().embedding(data)
    spread = points.var(0)
    assert spread[:2].sum() == pytest.approx(2.0)
    assert spread[2:3].sum() == pytest.approx(1.0)
    assert spread[3:].sum() == pytest.approx(1.0)


def test_complaints_carry_the_columns_own_name():
    data = table(10)
    data[3, 1] = -2.0
    with pytest.raises(ValueError, match=r"'visits'.*row 3"):
        template().check(data, ("a", "visits", "b", "angle"))


@pytest.mark.parametrize("columns", [((0,), (0,)), ((0,), (2,)), ((0, 1), ()), ((0,),)])
def test_columns_must_be_parted(columns):
    with pytest.raises(ValueError, match="Blocks"):
        Blocks((Gaussian(), Poisson()), columns)


def test_a_table_of_another_width_is_refused():
    with pytest.raises(ValueError, match="4 columns, the table has 3"):
        minorant.fit(minorant.Mixture(template(), n_components=2), table(20)[:, :3])
