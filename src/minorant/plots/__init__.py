"""Pictures of fits: matplotlib axes in and out, no pyplot state.

Every function draws into the ``ax`` it is given, or makes a figure of its own, and returns what it
drew into; save it with ``axes.figure.savefig(path)``. Matplotlib is imported when a function is
called. Bounds are drawn in nats per row.
"""

from minorant.plots._animation import em_animation
from minorant.plots._certificate import bracket, gaps, rungs
from minorant.plots._climb import climb
from minorant.plots._components import components
from minorant.plots._items import abilities, item_curves, item_information
from minorant.plots._loadings import loadings
from minorant.plots._path import EMPath, em_path
from minorant.plots._responsibilities import responsibilities
from minorant.plots._series import series
from minorant.plots._states import states

__all__ = [
    "EMPath",
    "abilities",
    "bracket",
    "climb",
    "components",
    "em_animation",
    "em_path",
    "gaps",
    "item_curves",
    "item_information",
    "loadings",
    "responsibilities",
    "rungs",
    "series",
    "states",
]
