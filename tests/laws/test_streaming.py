"""Laws of the fold: how rows are cut into blocks changes nothing, and compiles nothing twice."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import truth
from cases import LIKELIHOODS, MODELS, VIEWS
from helpers import (
    N,
    assert_trees_close,
    examine,
    rounding,
    rows_of,
    scene,
    source_of,
    tolerance,
    with_gaps,
)

from minorant import _linalg
from minorant._types import Affine
from minorant.data import arrange
from minorant.data.arrays import Table, bucket


def weights_for(n):
    return np.random.default_rng(5).integers(0, 4, size=n).astype(float)


def part(values, weight, index):
    """The block with every weight but those of ``index`` set to zero: one shape, one compile."""
    kept = np.zeros(len(values))
    kept[index] = weight[index]
    return kept


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_statistics_of_parts_add_up_in_any_order(name, missing, dtype):
    case = MODELS[name]
    shown = scene(case, missing=missing)
    model, weight = shown.cast(dtype), weights_for(N)
    whole = examine(model, rows_of(shown.values, dtype, weight))
    pieces = np.array_split(np.random.default_rng(6).permutation(N), 3)
    for order in ([0, 1, 2], [2, 0, 1]):
        looks = [
            examine(model, rows_of(shown.values, dtype, part(shown.values, weight, pieces[i])))
            for i in order
        ]
        total = jax.tree.map(lambda *leaves: sum(leaves), *[look.statistics for look in looks])
        assert_trees_close(total, whole.statistics, tolerance(dtype))
        bounds = sum(float(look.bound) for look in looks)
        assert bounds == pytest.approx(
            float(whole.bound), abs=rounding(whole.bound, weight.sum(), dtype)
        )
    assert_trees_close(whole.pass_statistics, whole.statistics, tolerance(dtype))


@jax.jit
def fold(source, model):
    """Bound and statistics of a whole source."""
    return source.fold(lambda m, rows: m.expectation(rows, m.prepare()), model)


BLOCKED = ["gaussian-full", "gaussian-tied-centred", "gaussian-diagonal"]


@pytest.mark.parametrize("name", BLOCKED)
def test_block_size_is_irrelevant(name, dtype):
    shown = scene(LIKELIHOODS[name], n=203)
    model, weight = shown.cast(dtype), weights_for(203)
    one, *others = [
        fold(source_of(shown.values, dtype, weight, block_rows=size), model)
        for size in (1024, 64, 29, 1)
    ]
    for other in others:
        assert_trees_close(other, one, tolerance(dtype))
    rows = rows_of(shown.values, dtype, weight)
    assert_trees_close(one.statistics, examine(model, rows).statistics, tolerance(dtype))


@pytest.mark.parametrize("name", BLOCKED)
def test_padding_is_irrelevant_whatever_it_holds(name, dtype):
    shown = scene(LIKELIHOODS[name])
    model = shown.cast(dtype)
    short = examine(model, rows_of(shown.values, dtype)).statistics
    for filler in (0.0, 1e3):
        values = np.concatenate([shown.values, np.full((8, 3), filler)])
        weight = np.r_[np.ones(N), np.zeros(8)]
        padded = examine(model, rows_of(values, dtype, weight)).statistics
        assert_trees_close(padded, short, tolerance(dtype))


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("name", BLOCKED)
def test_patterns_and_cells_give_the_same_numbers(name, share, dtype):
    shown = scene(LIKELIHOODS[name], n=150)
    gaps = np.random.default_rng(9).random((4, 3)) < 0.5  # four patterns, each many times
    gaps[gaps.all(1)] = False
    values = np.where(gaps[np.random.default_rng(7).integers(4, size=150)], np.nan, shown.values)
    values[:20] = with_gaps(np.random.default_rng(8), shown.values[:20], share)
    model, weight = shown.cast(dtype), weights_for(150)
    patterns = source_of(values, dtype, weight, shares_patterns=True)
    cells = source_of(values, dtype, weight, shares_patterns=False)
    assert len(patterns.segments) > len(cells.segments) == 1
    found = fold(patterns, model)
    assert_trees_close(found, fold(cells, model), tolerance(dtype))
    scores = truth.log_joint(shown.model, values, shown.case.component.log_prob)
    evidence = truth.compensated_sum(weight * truth.log_evidence(scores))
    assert float(found.bound) == pytest.approx(evidence, rel=10 * tolerance(dtype))


def absent_sets(values):
    """For every row the columns it misses, -1 where it misses fewer than the most."""
    sets = [np.flatnonzero(np.isnan(row)) for row in values]
    most = max(len(columns) for columns in sets)
    padded = [np.r_[columns, np.full(most - len(columns), -1)] for columns in sets]
    return np.array(padded, dtype=np.int32)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name.startswith("gaussian")])
def test_gaps_by_cell_by_set_and_by_row_give_the_same_numbers(name, dtype):
    shown = scene(LIKELIHOODS[name], missing=True)
    model, weight = shown.cast(dtype), weights_for(N)
    by_cell = rows_of(shown.values, dtype, weight)
    by_set = dataclasses.replace(by_cell, absent=absent_sets(shown.values))
    look, other = examine(model, by_cell), examine(model, by_set)
    assert_trees_close(other.log_joint, look.log_joint, tolerance(dtype))
    assert_trees_close(other.statistics, look.statistics, tolerance(dtype))
    pattern = np.isnan(shown.values[0])
    alike = np.flatnonzero((np.isnan(shown.values) == pattern).all(1))
    kept = np.where(np.isin(np.arange(N), alike), weight, 0.0)
    shared = dataclasses.replace(by_cell, observed=~pattern[None], weight=kept.astype(dtype))
    one = examine(model, shared)
    assert_trees_close(
        np.asarray(one.log_joint)[:, alike], np.asarray(look.log_joint)[:, alike], tolerance(dtype)
    )
    two = examine(model, dataclasses.replace(by_cell, weight=kept.astype(dtype)))
    assert_trees_close(one.statistics, two.statistics, tolerance(dtype))


def test_rows_come_back_in_the_tables_order(rng, float64):
    """Complete rows, rows with few gaps, rows that share many, and rows with gaps of their own."""
    values = rng.normal(size=(400, 9))
    values[100:200][rng.random((100, 9)) < 0.1] = np.nan
    values[200:300, 3:8] = np.nan
    values[300:][rng.random((100, 9)) < 0.7] = np.nan
    values = values[rng.permutation(400)]
    first = values[:, 0] = np.arange(400.0)
    source, layout = arrange(
        Table(values), Affine.identity(9), float64, shares_patterns=True, block_rows=64
    )
    assert len(source.segments) == 4
    results = source.map(lambda _, rows: rows.values[:, 0], None)
    np.testing.assert_array_equal(layout.restore(results), first)


@pytest.mark.parametrize("lengths", [(100, 104), (4000, 4096)])
def test_tables_in_one_bucket_share_one_trace(lengths, float64):
    assert bucket(lengths[0]) == bucket(lengths[1])
    traces = []

    @jax.jit
    def total(source, parameter):
        def function(scale, rows):
            traces.append(rows.values.shape)
            return scale * rows.weight.sum()

        return source.fold(function, parameter)

    sums = [float(total(source_of(np.ones((n, 2)), float64), 2.0)) for n in lengths]
    assert sums == [2.0 * n for n in lengths]
    once = len(traces)
    float(total(source_of(np.ones((lengths[0], 2)), float64), 3.0))
    assert len(traces) == once  # the second and the third table traced nothing
    assert len(set(traces)) == 1


@pytest.mark.parametrize("length", [1, 2, 8, 9, 100, 1000, 12345, 10**6 + 1])
def test_buckets_waste_at_most_an_eighth(length):
    assert length <= bucket(length) <= max(length * 1.125, length + 1)
    assert bucket(bucket(length)) == bucket(length)


def test_float32_sums_of_many_blocks_keep_their_digits(float32):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40_000, 1)) + 30.0
    source = source_of(values, float32, block_rows=4)
    total = jax.jit(lambda s: s.fold(lambda _, rows: rows.values.sum(), None))(source)
    exact = truth.compensated_sum(values.astype(np.float32).ravel().tolist())
    assert float(total) == pytest.approx(exact, rel=3e-7)
    plain = np.float32(0.0)
    for block in values.astype(np.float32).reshape(-1, 4):
        plain += block.sum(dtype=np.float32)
    assert abs(plain - exact) > 10 * abs(float(total) - exact)  # a plain sum would not pass


def test_compensated_addition_is_nearly_exact(float32):
    terms = np.random.default_rng(2).normal(size=5000).astype(np.float32) * 1e4
    terms = np.concatenate([terms, -terms[:-1], np.float32([1e-3])])
    zero = np.float32(0.0)

    def add(carry, term):
        return _linalg.two_sum(*carry, term), None

    (total, tail), _ = jax.jit(lambda x: jax.lax.scan(add, (zero, zero), x))(terms)
    exact = truth.compensated_sum(terms.tolist())
    assert float(total) + float(tail) == pytest.approx(exact, rel=1e-6)
