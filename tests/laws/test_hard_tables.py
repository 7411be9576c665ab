"""Laws of hard tables: a correct answer or a clear sentence, never NaN."""

from __future__ import annotations

import numpy as np
import pytest

import minorant
from minorant.components import Diagonal, Full, Gaussian, Spherical, Tied
from minorant.result import Outcome

N_ROWS = 60


def groups(seed=0):
    """Two groups of 30 rows in two columns."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(N_ROWS, 2))
    values[N_ROWS // 2 :] += 6.0
    return values


def changed(values, column, new):
    values = values.copy()
    values[:, column] = new(values)
    return values


TABLES = {
    "plain": groups(),
    "constant column": changed(groups(), 1, lambda v: 3.0),
    "zero column": changed(groups(), 1, lambda v: 0.0),
    "duplicated column": changed(groups(), 1, lambda v: v[:, 0]),
    "collinear columns": changed(groups(), 1, lambda v: 2.0 * v[:, 0] - 1.0),
    "one far row": np.concatenate([groups()[:-1], [[500.0, -500.0]]]),
    "duplicated rows": np.repeat(groups()[::10], 10, axis=0),
    "tiny": groups() * 1e-150,
    "huge": groups() * 1e150,
    "mixed units": groups() * np.array([1e-9, 1e9]),
    "far from zero": groups() + 1e9,
}


def mixture(structure=None, k=2):
    return minorant.Mixture(Gaussian(structure or Full()), n_components=k)


def assert_sound(fit):
    """Every number finite, every covariance above the floor, and the outcome not a failure."""
    assert np.all(np.isfinite(fit.trace.objective)), fit.outcome
    for leaf in (fit.model.weights, fit.model.component.mean, fit.model.component.covariance):
        assert np.all(np.isfinite(leaf))
    assert np.isfinite(fit.bound)
    assert np.isclose(np.sum(fit.model.weights), 1.0, rtol=1e-6)
    assert fit.outcome.ok, fit.outcome


@pytest.mark.parametrize("name", TABLES)
def test_a_hard_table_has_an_answer(name, float64):
    assert_sound(minorant.fit(mixture(), TABLES[name]))


@pytest.mark.parametrize("structure", [Tied(), Diagonal(), Spherical()])
@pytest.mark.parametrize("name", ["constant column", "duplicated column", "one far row", "huge"])
def test_every_structure_answers(name, structure, float64):
    assert_sound(minorant.fit(mixture(structure), TABLES[name]))


@pytest.mark.parametrize("name", ["plain", "tiny", "huge", "mixed units"])
def test_scale_alone_changes_nothing_but_the_jacobian(name, float64):
    scale = TABLES[name][0] / groups()[0]
    one = minorant.fit(mixture(), groups(), tolerance=1e-10)
    other = minorant.fit(mixture(), TABLES[name], tolerance=1e-10)
    jacobian = N_ROWS * np.log(scale).sum()
    assert other.bound + jacobian == pytest.approx(one.bound, abs=1e-6)


def test_float32_rows_far_from_zero_give_the_float64_answer(float64):
    rng = np.random.default_rng(1)
    far = (1e6 + 40.0 * groups() + rng.normal(size=(N_ROWS, 2))).astype(np.float32)
    narrow = minorant.fit(mixture(), far)
    wide = minorant.fit(mixture(), far.astype(np.float64))
    assert narrow.dtype == "float32"
    assert wide.dtype == "float64"
    assert narrow.bound == pytest.approx(wide.bound, abs=1e-5 * N_ROWS)
    order = [np.argsort(fit.model.component.mean[:, 0]) for fit in (narrow, wide)]
    np.testing.assert_allclose(
        narrow.model.component.mean[order[0]], wide.model.component.mean[order[1]], atol=0.05
    )


@pytest.mark.parametrize("name", ["plain", "constant column", "duplicated column", "one far row"])
def test_float32_tables_end_sound_or_say_why(name, float32):
    fit = minorant.fit(mixture(), TABLES[name].astype(np.float32))
    assert np.isfinite(fit.bound)
    for leaf in (fit.model.weights, fit.model.component.mean, fit.model.component.covariance):
        assert np.all(np.isfinite(leaf))
    assert fit.outcome.ok or fit.outcome in (Outcome.DECREASED, Outcome.STEP_LIMIT), fit.outcome


def test_fewer_rows_than_components_is_refused(float64):
    with pytest.raises(ValueError, match=r"5 components.*3 rows.*fewer\s+components"):
        minorant.fit(mixture(k=5), groups()[:3])


def test_rows_of_weight_zero_do_not_count_as_rows(float64):
    with pytest.raises(ValueError, match="2 components.*1 rows"):
        minorant.fit(mixture(), groups()[:3], weights=[0.0, 2.0, 0.0])


def test_as_many_rows_as_components_has_an_answer(float64):
    fit = minorant.fit(mixture(k=4), groups()[[0, 1, 40, 41]])
    assert np.isfinite(fit.bound)
    assert np.all(np.isfinite(fit.model.component.covariance))


def test_one_row_has_an_answer(float64):
    fit = minorant.fit(mixture(k=1), np.array([[2.0, 5.0]]))
    np.testing.assert_allclose(fit.model.component.mean, [[2.0, 5.0]])
    assert np.isfinite(fit.bound)


def test_all_labels_known_ends_at_the_classes(float64):
    values, labels = groups(), np.repeat([0, 1], N_ROWS // 2)
    fit = minorant.fit(mixture(), values, labels=labels)
    for j in range(2):
        group = values[labels == j]
        np.testing.assert_allclose(fit.model.component.mean[j], group.mean(0), atol=1e-8)
        np.testing.assert_allclose(
            fit.model.component.covariance[j], np.cov(group.T, bias=True), atol=1e-8
        )
    assert fit.outcome.ok


def test_what_is_fixed_stays_and_the_rest_is_learned(float64):
    start = minorant.Mixture(
        Gaussian(mean=np.array([[0.0, 0.0], [5.0, 5.0]]), covariance=np.stack([np.eye(2)] * 2)),
        np.array([0.5, 0.5]),
        n_components=2,
    )
    fit = minorant.fit(start, groups(), fixed=lambda m: m.component.mean)
    np.testing.assert_allclose(fit.model.component.mean, start.component.mean, atol=1e-12)
    assert np.abs(fit.model.component.covariance - np.eye(2)).max() > 0.1
    held = minorant.Hold
    some = minorant.fit(
        start, groups(), fixed=lambda m: held(m.component.mean, np.array([True, False]))
    )
    np.testing.assert_allclose(some.model.component.mean[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(some.model.component.mean[1], groups()[30:].mean(0), atol=1e-2)
    assert fit.n_parameters == 11 - 4
    assert some.n_parameters == 11 - 2
    assert some.bound > fit.bound
