"""Where rows come from."""

from minorant.data.arrays import ArraySource, Layout, Segment, arrange
from minorant.data.base import AbstractSource
from minorant.data.summary import summarise

__all__ = ["AbstractSource", "ArraySource", "Layout", "Segment", "arrange", "summarise"]
