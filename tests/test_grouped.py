"""Rows in groups: whole groups in blocks, in both layouts, and back in the table's order."""

from __future__ import annotations

import numpy as np
import pytest

from minorant._types import Affine
from minorant.data import arrange_groups, grouped
from minorant.data.arrays import Table
from minorant.data.tables import as_table

LAYOUTS = {
    "ragged": [5, 1, 9, 2],
    "even": [4] * 20,
    "nearly even": [4, 5] * 20,
    "one": [17],
    "singles": [1] * 30,
}


def table_of(lengths, rng):
    groups = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    values = np.c_[groups, np.arange(len(groups))].astype(float)
    return as_table(values, groups=[f"s{g}" for g in groups], inputs=values[:, 1])[0]


@pytest.mark.parametrize("limit", [1 << 20, 8])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_groups_are_whole_in_order_and_marked(kind, limit, monkeypatch):
    monkeypatch.setattr(grouped, "_BLOCK_ROWS", limit)
    table = table_of(LAYOUTS[kind], np.random.default_rng(0))
    source, layout = arrange_groups(table, Affine.identity(2), np.dtype(float))
    rows = source.segments[0].rows
    seen = []
    for block in range(len(rows.weight)):
        used = rows.weight[block] > 0
        start, index = rows.groups.start[block], rows.groups.index[block]
        assert start[~used].all()
        assert index.max() < rows.groups.count
        for group in np.unique(index[used]):
            inside = np.flatnonzero(used & (index == group))
            assert start[inside[0]]
            assert not start[inside[1:]].any()
            np.testing.assert_array_equal(np.diff(inside), 1)
            members = rows.values[block][inside]
            assert len(set(members[:, 0])) == 1
            assert (np.diff(members[:, 1]) > 0).all()
            np.testing.assert_array_equal(rows.inputs[block][inside, 0], members[:, 1])
            seen.append((members[0, 0], len(inside)))
    assert sorted(n for _, n in seen) == sorted(LAYOUTS[kind])
    answers = rows.values[..., 1].reshape(-1)
    np.testing.assert_array_equal(layout.restore((answers,)), table.values[:, 1])


def test_even_groups_lie_side_by_side():
    table = table_of(LAYOUTS["nearly even"], np.random.default_rng(1))
    rows = arrange_groups(table, Affine.identity(2), np.dtype(float))[0].segments[0].rows
    assert rows.groups.length == 5
    assert rows.groups.start[0].reshape(-1, 5)[:, 0].all()


def test_without_groups_all_rows_are_one_sequence():
    values = np.arange(6.0)[:, None]
    source, _ = arrange_groups(Table(values), Affine.identity(1), np.dtype(float))
    start = source.segments[0].rows.groups.start[0]
    np.testing.assert_array_equal(np.flatnonzero(start), [0])


def test_missing_cells_are_marked():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [2.0, 3.0]])
    source, _ = arrange_groups(Table(values), Affine.identity(2), np.dtype(float))
    rows = source.segments[0].rows
    np.testing.assert_array_equal(rows.observed[0], ~np.isnan(values))
    np.testing.assert_array_equal(rows.values[0][1], 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1, 2]}, "groups must have one entry per row"),
        ({"groups": [1, None, 2]}, "row 1 has none"),
        ({"groups": [1, np.nan, 2]}, "row 1 has none"),
        ({"groups": [1, 1, 2], "weights": [1, 2, 1]}, "same in all rows of a group; row 1"),
        ({"inputs": [1, 2]}, "inputs must have one row per row of data"),
        ({"inputs": [1, np.nan, 2]}, "inputs must be finite.*row 1"),
    ],
)
def test_bad_groups_and_inputs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        as_table(np.ones((3, 1)), **options)
