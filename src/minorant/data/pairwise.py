"""Sums over chunks as a tree that the number of a chunk fixes, whoever sums which chunks.

Chunks 0 and 1 are added, chunks 2 and 3, then these two sums, and so on. A stretch of chunks is
summed as far as the tree has nodes that lie in it; the nodes of two stretches that follow one
another then join to those of both. So the sum is the same to the last bit however chunks are
shared out, and rounding grows with the logarithm of their number (Higham, 1993, "The accuracy of
floating point summation", section 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from minorant._types import PyTree


class Node(NamedTuple):
    """The sum over chunks ``index * 2**level`` to ``(index + 1) * 2**level - 1``."""

    level: int
    index: int
    total: PyTree


def joined(nodes: Iterable[Node], more: Iterable[Node]) -> list[Node]:
    """The nodes of a stretch and of the one that follows it, added where two make up one.

    Example:
        >>> from minorant.data.pairwise import Node, joined
        >>> first = joined([Node(0, 0, 1.0)], [Node(0, 1, 2.0)])
        >>> both = joined(first, [Node(0, 2, 4.0)])
        >>> [(node.level, node.index, float(node.total)) for node in both]
        [(1, 0, 3.0), (0, 2, 4.0)]
    """
    stack = list(nodes)
    for node in more:
        while stack and _are_siblings(stack[-1], node):
            node = _parent(stack.pop(), node)
        stack.append(node)
    return stack


def whole(nodes: list[Node]) -> PyTree:
    """The sum over all chunks; ``nodes`` are those from the first chunk on."""
    total = nodes[-1].total
    for node in reversed(nodes[:-1]):
        total = jax.tree.map(np.add, node.total, total)
    return total


def _are_siblings(one: Node, other: Node) -> bool:
    return one.level == other.level and one.index % 2 == 0 and other.index == one.index + 1


def _parent(one: Node, other: Node) -> Node:
    total = jax.tree.map(np.add, one.total, other.total)
    return Node(one.level + 1, one.index // 2, total)
