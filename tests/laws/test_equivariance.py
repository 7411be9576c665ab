"""Laws of symmetry: names of components, the order of rows, and units carry no information."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import MODELS, VIEWS
from helpers import K, N, assert_trees_close, examine, rows_of, scene, tolerance

import minorant
from minorant._types import Affine
from minorant.components import Diagonal, Full, Gaussian, Spherical, Tied
from minorant.data import summarise
from minorant.preparation import cast

MOVABLE = [name for name, case in MODELS.items() if case.component.units != "none"]


def relabelled(tree, order):
    """Every leaf with components on its first axis put in another order."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf)[order] if np.shape(leaf)[:1] == (K,) else leaf, tree
    )


@pytest.mark.parametrize("name", MODELS)
def test_names_of_components_carry_no_information(name, dtype):
    shown, order = scene(MODELS[name]), np.array([2, 0, 3, 1])
    model, rows = shown.cast(dtype), rows_of(shown.values, dtype)
    look, other = examine(model, rows), examine(relabelled(model, order), rows)
    assert_trees_close(other.log_joint, np.asarray(look.log_joint)[order], tolerance(dtype))
    assert_trees_close(other.log_evidence, look.log_evidence, tolerance(dtype))
    assert_trees_close(other.objective, look.objective, tolerance(dtype))
    assert_trees_close(other.stepped, relabelled(look.stepped, order), 10 * tolerance(dtype))


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_the_order_of_rows_carries_no_information(name, missing, dtype):
    case = MODELS[name]
    shown, order = scene(case, missing=missing), np.random.default_rng(0).permutation(N)
    model = shown.cast(dtype)
    look = examine(model, rows_of(shown.values, dtype))
    other = examine(model, rows_of(shown.values[order], dtype))
    assert_trees_close(other.log_joint, np.asarray(look.log_joint)[:, order], tolerance(dtype))
    assert_trees_close(other.statistics, look.statistics, tolerance(dtype))
    assert_trees_close(other.stepped, look.stepped, 10 * tolerance(dtype))


def by_column(kind, d):
    """One kind of change for each column."""
    return np.array([kind] * d if isinstance(kind, str) else kind)


def units_for(kind, d, size=1.0):
    """A change of units that a component of this kind allows."""
    rng = np.random.default_rng(11)
    kinds = by_column(kind, d)
    scale, shift = np.exp(size * rng.normal(size=d)), 3.0 * rng.normal(size=d)
    if kind == "common":
        scale = np.full(d, scale[0])
    scale = np.where(kinds == "none", 1.0, scale)
    return Affine(np.where((kinds == "scale") | (kinds == "none"), 0.0, shift), scale)


@pytest.mark.parametrize(("name", "missing"), [view for view in VIEWS if view[0] in MOVABLE])
def test_units_change_densities_by_the_jacobian_alone(name, missing, dtype):
    case = MODELS[name]
    shown = scene(case, missing=missing)
    units = units_for(case.component.units, shown.values.shape[1])
    look = examine(shown.cast(dtype), rows_of(shown.values, dtype))
    moved = cast(shown.model.rescaled(units), dtype)
    other = examine(moved, rows_of(units.apply(shown.values), dtype))
    jacobian = (~np.isnan(shown.values) * np.log(units.scale)).sum(1)
    allowed = 10 * tolerance(dtype)
    assert_trees_close(np.asarray(other.log_joint) - jacobian, look.log_joint, allowed)
    back = cast(other.stepped, np.float64).rescaled(units.inverse())
    assert_trees_close(back, cast(look.stepped, np.float64), 10 * allowed)


@pytest.mark.parametrize("name", MOVABLE)
def test_a_change_of_units_is_undone_by_its_inverse(name):
    shown = scene(MODELS[name])
    units = units_for(MODELS[name].component.units, shown.values.shape[1])
    again = shown.model.rescaled(units).rescaled(units.inverse())
    assert_trees_close(again, shown.model, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_standard_units_are_units_that_the_component_allows(name):
    case = MODELS[name]
    shown = scene(case)
    names = tuple(f"c{j}" for j in range(shown.values.shape[1]))
    units = shown.model.standardiser(summarise(shown.values, None, names))
    assert np.all(units.scale > 0)
    kinds = by_column(case.component.units, len(names))
    np.testing.assert_array_equal(units.shift[(kinds == "scale") | (kinds == "none")], 0.0)
    np.testing.assert_array_equal(units.scale[kinds == "none"], 1.0)
    if case.component.units == "common":
        assert len(set(units.scale)) == 1


@pytest.mark.parametrize("structure", [Full(), Tied(), Diagonal(), Spherical()])
def test_a_fit_follows_its_data_through_a_change_of_units(structure, float64):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [4.0, 1.0]])
    values = centres[rng.integers(2, size=100)] + rng.normal(size=(100, 2))
    kind = "common" if isinstance(structure, Spherical) else "affine"
    units = units_for(kind, 2, size=3.0)
    model = minorant.Mixture(Gaussian(structure), n_components=2)
    one = minorant.fit(model, values, tolerance=1e-10)
    other = minorant.fit(model, units.apply(values), tolerance=1e-10)
    assert other.bound - 100 * np.log(units.scale).sum() == pytest.approx(one.bound, abs=1e-6)
    expected = one.model.rescaled(units)
    order = np.argsort(expected.component.mean[:, 0])
    found = np.argsort(other.model.component.mean[:, 0])
    np.testing.assert_allclose(
        other.model.component.mean[found], expected.component.mean[order], atol=1e-4
    )
    np.testing.assert_allclose(other.model.weights[found], expected.weights[order], atol=1e-4)
