"""Trees without their structure: the same fit builds it again when it enters the same run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from minorant._types import PyTree


def leaves_of(tree: PyTree) -> list[np.ndarray]:
    """What is written of a tree."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def shaped_as(like: PyTree, leaves: list[np.ndarray]) -> Any:
    """The tree that leaves were of.

    Raises:
        ValueError: when there are as many as in another one.
    """
    structure = jax.tree.structure(like)
    if structure.num_leaves != len(leaves):
        raise ValueError(
            f"The checkpoint holds {len(leaves)} arrays where this fit has {structure.num_leaves}: "
            "it was written by another fit. Delete it to begin anew."
        )
    return jax.tree.unflatten(structure, leaves)
