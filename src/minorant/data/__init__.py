"""Where rows come from."""

from minorant.data.arrays import ArraySource, Layout, Segment, arrange
from minorant.data.base import AbstractCount, AbstractPassedSource, AbstractSource, Count, Part
from minorant.data.grouped import arrange_groups
from minorant.data.moments import Complete, arrange_compressed, complete_moments
from minorant.data.summary import summarise

__all__ = [
    "AbstractCount",
    "AbstractPassedSource",
    "AbstractSource",
    "ArraySource",
    "Complete",
    "Count",
    "Layout",
    "Part",
    "Segment",
    "arrange",
    "arrange_compressed",
    "arrange_groups",
    "complete_moments",
    "summarise",
]
