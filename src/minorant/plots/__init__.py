"""Pictures of fits: matplotlib axes in and out, no pyplot state.

Every function draws into the ``ax`` it is given, or makes a figure of its own, and returns what it
drew into; save it with ``axes.figure.savefig(path)``. Matplotlib is imported when a function is
called. Bounds are drawn in nats per row.
"""

from minorant.plots._animation import em_animation
from minorant.plots._climb import climb
from minorant.plots._components import components
from minorant.plots._path import EMPath, em_path
from minorant.plots._responsibilities import responsibilities

__all__ = ["EMPath", "climb", "components", "em_animation", "em_path", "responsibilities"]
