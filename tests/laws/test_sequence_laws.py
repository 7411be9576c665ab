"""Laws of models of sequences: evidence, the climb, weights, gaps, blocks, saving."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    assert_never_decreases,
    assert_trees_close,
    assert_trees_equal,
    quick_jit,
    rounding,
)
from sequence_cases import SEQUENCES

from minorant import _trees as trees
from minorant._parameters import from_vector, to_vector
from minorant._types import Affine, Groups, Rows
from minorant.data import arrange_groups, grouped
from minorant.data.arrays import Table

pytestmark = pytest.mark.usefixtures("float64")
LENGTHS, WEIGHTS = (7, 1, 12, 5, 9), (2.0, 1.0, 1.0, 0.0, 3.0)
ROWS = 64  # of every block, so that each model is compiled once
CLOSE = 1e-9


class Scene(NamedTuple):
    """A model and sequences with gaps."""

    model: Any
    parts: tuple[np.ndarray, ...]
    inputs: tuple[np.ndarray, ...]


@cache
def scene(name: str) -> Scene:
    """Rows that the model may have made, cells and whole steps missing."""
    case, rng = SEQUENCES[name], np.random.default_rng(1)
    parts = []
    for length in LENGTHS:
        rows = case.rows(rng, length)
        rows[rng.random(rows.shape) < 0.2] = np.nan
        rows[3:4] = np.nan
        parts.append(rows)
    inputs = tuple(rng.normal(size=(length, case.n_inputs)) for length in LENGTHS)
    return Scene(case.make(np.random.default_rng(0)), tuple(parts), inputs)


def block(parts, inputs, weights) -> Rows:
    """Sequences one after the other, filled up with rows of weight zero."""
    lengths = [len(part) for part in parts]
    more = ROWS - sum(lengths)
    index = np.r_[np.repeat(np.arange(len(parts)), lengths), len(parts) + np.arange(more)]
    values = np.concatenate([*parts, np.zeros((more, parts[0].shape[1]))])
    known = np.concatenate([*inputs, np.zeros((more, inputs[0].shape[1]))])
    weight = np.r_[np.repeat(weights, lengths), np.zeros(more)]
    groups = Groups(np.diff(index, prepend=-1) > 0, index.astype(np.int32), ROWS)
    observed = ~np.isnan(values)
    filled = np.where(observed, values, 0.0)
    return Rows(filled, weight, observed, groups=groups, inputs=known if known.size else None)


def rows_of(name: str) -> Rows:
    """The scene's sequences with their weights."""
    shown = scene(name)
    return block(shown.parts, shown.inputs, WEIGHTS)


class Look(NamedTuple):
    """One pass and the step that follows."""

    log_evidence: Any
    bound: Any
    objective: Any
    statistics: Any
    parted: Any
    stepped: Any


@quick_jit
def examine(model: Any, rows: Rows) -> Look:
    """Everything that the laws ask."""
    prepared = model.prepare()
    found = model.expectation(rows, prepared)
    return Look(
        model.log_evidence(rows, prepared),
        found.bound,
        found.bound + model.log_prior(),
        found.statistics,
        model.statistics(rows, model.posterior(rows, prepared), prepared),
        model.maximise(found.statistics).projected(),
    )


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_evidence_is_the_truth_sequence_by_sequence(name):
    shown, look = scene(name), examine(scene(name).model, rows_of(name))
    ends = np.cumsum(LENGTHS)
    rows = zip(ends - LENGTHS, ends, shown.parts, shown.inputs, strict=True)
    truths = []
    for first, end, part, inputs in rows:
        truths.append(SEQUENCES[name].log_evidence(shown.model, part, inputs))
        found = np.asarray(look.log_evidence)[first:end].sum()
        assert found == pytest.approx(truths[-1], rel=1e-9, abs=1e-9)
    assert float(look.bound) == pytest.approx(float(np.dot(WEIGHTS, truths)), rel=1e-9)


@pytest.mark.parametrize("name", SEQUENCES)
def test_one_step_after_another_never_lowers_the_objective(name):
    model, rows, climb = scene(name).model, rows_of(name), []
    for _ in range(10):
        look = examine(model, rows)
        climb.append(float(look.objective))
        model = look.stepped
    assert_never_decreases(climb, rounding(climb, float(rows.weight.sum()), np.float64))
    assert climb[-1] > climb[0] + 0.5


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_integer_weight_is_that_many_copies_of_the_sequence(name):
    shown, weighted = scene(name), examine(scene(name).model, rows_of(name))
    which = np.repeat(np.arange(len(LENGTHS)), np.array(WEIGHTS, int))
    order = np.random.default_rng(2).permutation(which)
    parts, inputs = ([leaves[i] for i in order] for leaves in (shown.parts, shown.inputs))
    copied = examine(shown.model, block(parts, inputs, np.ones(len(order))))
    for field in ("bound", "objective", "statistics", "stepped"):
        one, other = getattr(weighted, field), getattr(copied, field)
        if field == "statistics" and hasattr(getattr(one, "pairs", None), "reach"):
            one, other = (  # a bound on the largest input, which no weight changes
                s._replace(pairs=s.pairs._replace(reach=np.zeros(3))) for s in (one, other)
            )
        if field == "stepped" and name == "chain-inputs":
            continue  # the step is as long as that bound allows
        assert_trees_close(one, other, CLOSE)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_of_weight_zero_may_hold_anything(name):
    shown = scene(name)
    parts = [part if w else part[::-1] for part, w in zip(shown.parts, WEIGHTS, strict=True)]
    one = examine(shown.model, rows_of(name))
    two = examine(shown.model, block(parts, shown.inputs, WEIGHTS))
    assert_trees_close(one.statistics, two.statistics, CLOSE)
    assert_trees_close(one.stepped, two.stepped, CLOSE)


@pytest.mark.parametrize("name", SEQUENCES)
def test_one_pass_is_posterior_and_statistics(name):
    look = examine(scene(name).model, rows_of(name))
    assert_trees_close(look.parted, look.statistics, CLOSE)


@quick_jit
def fold(source: Any, model: Any) -> Any:
    """Bound and statistics of a whole source."""
    return source.fold(lambda m, rows: m.expectation(rows, m.prepare()), model)


@pytest.mark.parametrize("name", ["chain-gaussian", "chain-inputs", "state-space"])
def test_how_sequences_are_cut_into_blocks_is_irrelevant(name, monkeypatch):
    shown = scene(name)
    values, inputs = np.concatenate(shown.parts), np.concatenate(shown.inputs)
    codes = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    known = inputs if inputs.size else None
    table = Table(values, np.repeat(WEIGHTS, LENGTHS), groups=codes, inputs=known)
    whole = examine(shown.model, rows_of(name))
    for limit in (1 << 20, 13):
        monkeypatch.setattr(grouped, "_BLOCK_ROWS", limit)
        units = Affine.identity(values.shape[1])
        source, _ = arrange_groups(table, units, np.dtype(float))
        found = fold(source, shown.model)
        assert_trees_close(found.bound, whole.bound, CLOSE)
        assert_trees_close(found.statistics, whole.statistics, CLOSE)


@pytest.mark.parametrize("name", SEQUENCES)
def test_saving_and_the_free_vector_lead_back_to_the_model(name):
    model = scene(name).model
    store = trees.Store()
    written = store.encode(model, "model")
    again = trees.decode(written, store.arrays, trees.known_classes(()))
    assert_trees_equal(again, model)
    assert_trees_close(from_vector(model, to_vector(model)), model, 1e-12)
