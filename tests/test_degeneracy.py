"""Collapsed and empty components: found, named with their rows, treated, recorded."""

from __future__ import annotations

import numpy as np
import pytest

import minorant
from minorant import _config, degeneracy
from minorant.components import Diagonal, Gaussian
from minorant.result import Outcome


def table(copies: int) -> np.ndarray:
    """Two groups of 60 rows, and one point many times over."""
    rng = np.random.default_rng(0)
    groups = np.concatenate([rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) + 5.0])
    return np.concatenate([groups, np.tile([[12.0, -7.0]], (copies, 1))])


def climbed(rows, k=3, **options):
    with _config.precision(np.float64):
        return minorant.fit(minorant.Mixture(Gaussian(), n_components=k), rows, **options)


@pytest.fixture(scope="module")
def atom():
    return climbed(table(8))


def test_an_atom_is_kept_named_and_sits_on_the_floor(atom):
    (found,) = atom.degenerate
    assert found.kind.startswith("collapsed")
    assert found.rows == tuple(range(120, 128))
    assert atom.outcome.ok
    component = atom.model.component
    np.testing.assert_allclose(component.mean[found.component], [12.0, -7.0], rtol=1e-9)
    spread = np.linalg.eigvalsh(
        component.covariance[found.component] / np.diag(component.floor).max()
    )
    assert spread.max() <= 1.01
    assert np.isfinite(atom.trace.objective).all()


def test_merging_goes_on_with_fewer_components_and_keeps_the_record():
    fit = climbed(table(8), remedy="merge")
    assert fit.model.n_components == 2
    assert fit.degenerate[0].rows == tuple(range(120, 128))
    plain = climbed(table(8), k=2)
    assert fit.bound <= plain.bound + 1e-3


def test_reseeding_in_vain_leaves_the_best_fit_and_says_so(atom):
    fit = climbed(table(8), remedy="reseed")
    assert fit.bound == pytest.approx(atom.bound)
    assert "in vain" in fit.degenerate[0].remedy


def test_ties_in_one_column_do_not_win_over_a_sound_optimum():
    from sklearn.datasets import load_iris

    rows = load_iris().data
    for seed in (1, 3, 9):
        fit = climbed(rows, random_state=seed)
        assert fit.outcome.ok
        assert fit.degenerate == ()
        assert fit.bound / 150 == pytest.approx(-1.2012365142, abs=1e-6)


def test_more_components_than_the_rows_carry_is_named_degenerate():
    rows = np.random.default_rng(0).normal(size=(12, 3))
    fit = climbed(rows, k=5)
    assert fit.outcome is Outcome.DEGENERATE
    assert fit.degenerate
    assert all(entry.rows for entry in fit.degenerate)


def test_a_column_that_is_constant_for_all_is_the_datas_not_a_components():
    rows = np.column_stack([table(0)[:, 0], np.full(120, 3.0)])
    fit = climbed(rows, k=2)
    assert fit.outcome.ok
    assert fit.degenerate == ()


def test_an_empty_component_is_found():
    component = Gaussian(Diagonal(), np.array([[0.0], [1.0]]), np.ones((2, 1)), np.array([1e-6]))
    model = minorant.Mixture(component, np.array([1.0 - 1e-9, 1e-9]), n_components=2)
    np.testing.assert_array_equal(degeneracy.degenerate_mask(model, 100.0), [False, True])
    assert degeneracy.is_spurious(model, 100.0, 1)


def test_rows_looked_at_in_parts_are_named_as_all_at_once(atom, monkeypatch):
    monkeypatch.setattr(degeneracy, "_MOST_CHANCES", 3 * 50)
    rows = table(8)
    rows[np.arange(0, 120, 7), 1] = np.nan  # complete rows and others in a part
    parts = climbed(rows).degenerate
    monkeypatch.undo()
    whole = climbed(rows).degenerate
    assert parts == whole
    assert parts[0].rows == tuple(range(120, 128))
