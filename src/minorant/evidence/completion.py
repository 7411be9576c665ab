"""Missing cells filled, and new rows drawn, in the data's units."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource, Layout, Table, bucket
from minorant.evidence.in_chunks import joined
from minorant.evidence.scoring import each_checked
from minorant.preparation import blocks
from minorant.result import Fit

# A filled block holds k matrices per row: short blocks keep that in bounded memory.
_BLOCK_ROWS = 256


def impute(
    fit: Fit,
    X: Any,  # noqa: N803
    draw: bool = False,
    random_state: Any = 0,
    groups: Any = None,
    inputs: Any = None,
) -> Float[np.ndarray, "n d"]:
    r"""The table with its missing cells filled.

    .. math:: E[x \mid x_o] = \sum_k r_k(x_o)\, E[x \mid x_o, k]

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; NaN where a cell is missing. Or rows out of memory,
            as in :func:`posterior`; what is returned is in memory.
        draw: fill with a draw from ``p(x | x_o)`` instead of its mean. Means make the table less
            spread than the data are; use draws (several, for multiple imputation) before
            computing variances or correlations.
        random_state: seed or NumPy generator of the draws; None for a fresh one.
        groups: (n,) the sequence or cluster of each row, for models of groups.
        inputs: (n, m) covariates, for models that condition on them.

    Returns:
        (n, d) in float64; observed cells come back as they were.

    Raises:
        ValueError: for cells or columns that the fit cannot describe.
        TypeError: when the model cannot fill cells.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.c_[np.arange(20.0), 2 * np.arange(20.0) + np.resize([1, -1], 20)]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> fit = minorant.fit(model, rows)
        >>> np.round(minorant.evidence.impute(fit, [[10.0, np.nan]]), 1)
        array([[10., 20.]])

    Little & Rubin (2019), "Statistical analysis with missing data", 3rd ed., section 11.2.
    """
    name = "imputed_sample" if draw else "imputed"
    if not hasattr(fit.standardised, name):
        raise TypeError(f"{type(fit.standardised).__name__} cannot fill cells: it has no {name}.")
    tables = each_checked(fit, X, None, groups, inputs)
    seeds = _seeds(random_state) if draw else itertools.repeat(None)
    return joined([_completed(fit, table, seed) for table, seed in zip(tables, seeds)])  # noqa: B905


def _completed(fit: Fit, table: Table, seed: np.ndarray | None) -> Float[np.ndarray, "n d"]:
    """The table filled, with a draw where there is a seed."""
    filled = np.array(table.values, dtype=float)
    missing = np.isnan(filled)
    incomplete = missing.any(1)
    if not incomplete.any():
        return filled
    if fit.standardised.is_grouped():  # whole groups: their other rows tell of the missing ones
        incomplete = np.ones(len(filled), dtype=bool)
    part = table.take(np.flatnonzero(incomplete))
    source, layout = blocks(
        fit.standardised, part, fit.units, np.dtype(fit.dtype), block_rows=_BLOCK_ROWS
    )
    answers = _in_data_units(fit, _filled(fit, source, layout, seed))
    filled[missing] = answers[missing[incomplete]]
    return filled


def sample(fit: Fit, n: int, random_state: Any = 0) -> tuple[Float[np.ndarray, "n d"], np.ndarray]:
    """New rows from the fitted model.

    Args:
        fit: what ``minorant.fit`` returned.
        n: how many rows.
        random_state: seed or NumPy generator; None for a fresh one.

    Returns:
        (n, d) rows in the data's units, in float64, and the latents they came from: (n,)
        components, or (n, l) where the latent is continuous.

    Raises:
        ValueError: when n is not a whole number of at least 1.

    Example:
        >>> import numpy as np, minorant
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> fit = minorant.fit(model, np.arange(20.0)[:, None])
        >>> rows, labels = minorant.evidence.sample(fit, 5)
        >>> rows.shape, labels.shape
        ((5, 1), (5,))
    """
    n = _count(n)
    seed = _seed(random_state)
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(fit.dtype)):
        drawn = _draw(fit.standardised, seed, bucket(n))
        components, rows = jax.device_get(drawn)
    components = components[:n]
    if np.issubdtype(components.dtype, np.integer):
        components = components.astype(np.int64)
    return _in_data_units(fit, rows[:n]), components


def _filled(fit: Fit, source: ArraySource, layout: Layout, seed: np.ndarray | None) -> np.ndarray:
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(fit.dtype)):
        if seed is None:
            results = _imputed(fit.standardised, source)
        else:
            results = _imputed_draw(fit.standardised, source, seed)
        return layout.restore(jax.device_get(results))


def _in_data_units(fit: Fit, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
    return rows.astype(float) * fit.units.scale + fit.units.shift


def _count(n: Any) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"n must be a whole number of at least 1; got {n!r}.")
    return count


def _seeds(random_state: Any) -> Iterator[np.ndarray]:
    """A seed for every chunk; the first is that of a table in memory."""
    first = _seed(random_state)
    yield first
    for chunk in itertools.count(1):
        yield np.random.SeedSequence([int(first), chunk]).generate_state(1)[0]


def _seed(random_state: Any) -> np.ndarray:
    """32 bits for a key, from an integer, a NumPy generator, or the system."""
    if hasattr(random_state, "integers"):
        return np.asarray(random_state.integers(2**32, dtype=np.uint32))
    if hasattr(random_state, "randint"):
        return np.asarray(random_state.randint(2**32, dtype=np.uint32), dtype=np.uint32)
    try:
        return np.random.SeedSequence(random_state).generate_state(1)[0]
    except (TypeError, ValueError):
        raise ValueError(
            "random_state must be a whole number of at least 0, a NumPy generator or None; got "
            f"{random_state!r}."
        ) from None


@functools.partial(jax.jit, static_argnames="n")
def _draw(model: Any, seed: Array, n: int) -> tuple[Array, Array]:
    return model.sample(jax.random.key(seed), n)


@jax.jit
def _imputed(model: Any, source: ArraySource) -> tuple[Array, ...]:
    def fill(parameters: PyTree, rows: Rows) -> Float[Array, "n d"]:
        model, prepared = parameters
        return model.imputed(rows, prepared)

    return source.map(fill, (model, model.prepare()))


@jax.jit
def _imputed_draw(model: Any, source: ArraySource, seed: Array) -> tuple[Array, ...]:
    prepared = model.prepare()

    def fill(block: tuple[Rows, Array]) -> Float[Array, "n d"]:
        return model.imputed_sample(block[1], block[0], prepared)

    keys = jax.random.split(jax.random.key(seed), len(source.segments))
    answers = []
    for segment, key in zip(source.segments, keys, strict=True):
        filled = jax.lax.map(fill, (segment.rows, jax.random.split(key, segment.capacity())))
        answers.append(filled.reshape(-1, filled.shape[-1]))
    return tuple(answers)
