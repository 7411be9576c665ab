"""What is written of a climb comes back as it was: every array, start, trace and form."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from minorant.checkpoints import file, standing
from minorant.climbing import Lanes, Standing
from minorant.components import Gaussian
from minorant.components.matrix_covariance import Full


def lanes(starts, centred, scale):
    """Lanes whose state is a component and a count; no solver is asked."""
    k = len(starts)
    state = {
        "model": Gaussian(Full(centred=centred), scale * np.arange(2.0 * k).reshape(k, 2)),
        "memory": (np.full((k, 3), np.nan, np.float32), np.arange(k, dtype=np.int32) == 0),
    }
    traces = tuple([np.full((2, 2), s), np.full((1, 2), -s)] if s else [] for s in starts)
    return Lanes(state, traces, starts, lambda state: state)  # pyright: ignore


@pytest.mark.parametrize("ended", [None, (0, 2)])
def test_a_standing_comes_back_as_it_was(tmp_path, ended):
    fresh = Standing(lanes((0, 1, 2), False, 1.0), None, np.full(3, -np.inf))
    aside = None if ended is None else lanes(ended, True, -0.5)
    now = Standing(lanes((1,), True, 2.5), aside, np.array([1 / 3]), finished=True)
    file.write(tmp_path, {}, {"standing": standing.written(now, fresh)}, None)
    again = standing.restored(file.read(tmp_path)["standing"], fresh)
    assert again.finished
    assert np.array_equal(again.judged, now.judged)
    pairs = [(again.lanes, now.lanes)] + ([] if ended is None else [(again.ended, aside)])
    for found, wanted in pairs:
        assert found.starts == wanted.starts
        assert jax.tree.structure(found.state) == jax.tree.structure(wanted.state)
        same = jax.tree.map(
            lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes(),
            found.state,
            wanted.state,
        )
        assert all(jax.tree.leaves(same))
        for one, other in zip(found.traces, wanted.traces, strict=True):
            assert np.array_equal(
                np.concatenate([*one, [[0, 0]]]), np.concatenate([*other, [[0, 0]]])
            )
    assert (again.ended is None) == (ended is None)


def test_a_standing_of_another_run_is_refused():
    fresh = Standing(lanes((0, 1), False, 1.0), None, np.zeros(2))
    tree = standing.written(fresh, fresh)
    tree["lanes"]["leaves"].pop()
    with pytest.raises(ValueError, match="it was written by another fit"):
        standing.restored(tree, fresh)
