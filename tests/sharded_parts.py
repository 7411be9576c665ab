"""What fits on several devices and processes are tried on, and what one of the processes does.

python sharded_parts.py RANK PORT FOLDER SCENE...
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

import minorant
from minorant.components import Gaussian
from minorant.data.tables import as_table
from minorant.solvers import Plain

ROWS, STEPS, LATE = 6000, 30, 12


def table():
    """Rows with gaps, weights and a few labels; rows of one parity weigh nothing at the end."""
    rng = np.random.default_rng(3)
    z = rng.integers(0, 2, ROWS)
    values = rng.normal(size=(ROWS, 3)) + 2.0 * z[:, None]
    values[rng.random(values.shape) < 0.1] = np.nan
    values[np.isnan(values).all(1)] = 0.0
    weights = rng.integers(0, 3, ROWS).astype(float)
    weights[ROWS // 2 :] *= np.arange(ROWS // 2) % 2
    return values, weights, np.where(rng.random(ROWS) < 0.1, z, -1)


def sequences():
    """Rows of two states that last, and the sequence of each row."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(40), 100)[:-30]
    state = np.cumsum(rng.random(len(groups)) < 0.1) % 2
    return rng.normal(size=(len(groups), 2)) + 3.0 * state[:, None], groups


MIXTURE = minorant.Mixture(Gaussian(), n_components=2)
HIDDEN = minorant.HiddenMarkov(Gaussian(), n_components=2)


QUICK = {"starts": minorant.Starts(n=1), "max_steps": 12}


def spread(array):
    """An array sharded over all devices; every process gives its part."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    each = len(array) // jax.process_count()
    first = each * jax.process_index()
    return jax.make_array_from_process_local_data(sharding, array[first : first + each])


def sharded(folder):
    """A sharded array, its weights sharded alike, its labels with every process."""
    del folder
    values, weights, labels = table()
    return minorant.fit(MIXTURE, spread(values), weights=spread(weights), labels=labels, **QUICK)


def files(folder):
    """Sequences in files, read by the process that holds them."""
    rows = minorant.chunks(folder / "rows", groups="g", devices="all", memory="150kB")
    assert rows.count() is None or rows.count() > 3
    return minorant.fit(HIDDEN, rows, **QUICK)


def few(folder):
    """Fewer chunks than processes."""
    del folder
    values, weights, labels = table()
    rows = minorant.chunks(values, weights=weights, labels=labels, devices="all")
    return minorant.fit(MIXTURE, rows, **QUICK)


def drawn(folder):
    """A seed that nobody gives is the same for all."""
    del folder
    values, weights, labels = table()
    rows = minorant.chunks(values, weights=weights, labels=labels, devices="all")
    return minorant.fit(MIXTURE, rows, random_state=None, **QUICK)


def bad(folder):
    """A cell that one process alone sees."""
    del folder
    values, _, _ = table()
    values[-3, 1] = np.inf
    return minorant.fit(MIXTURE, spread(values))


def asked(folder):
    """A question about rows that are with another process."""
    del folder
    values, _, _ = table()
    return as_table(spread(values))


def slowly(progress):
    """Step after step, told to whoever waits."""
    Path(sys.argv[3], f"step{sys.argv[1]}").write_text(str(progress.steps))
    time.sleep(0.05)


def climb(folder):
    """A climb of many steps, kept after every one."""
    values, weights, _ = table()
    rows = minorant.chunks(values, weights=weights, devices="all", memory="100kB")
    solver = minorant.EM(Plain(), tolerance=0.0)
    place = minorant.Checkpoint(folder / "climb", seconds=0)
    options = {"solver": solver, "max_steps": STEPS, "callbacks": (slowly,)}
    return minorant.fit(MIXTURE, rows, starts=minorant.Starts(n=1), checkpoint=place, **options)


def told(fit):
    """What is compared: bits of the bound and of every parameter, and the bounds of all steps."""
    leaves = [np.asarray(leaf, float).tobytes().hex() for leaf in jax.tree.leaves(fit.model)]
    return {"bound": fit.bound, "leaves": leaves, "trace": fit.trace.bound.tolist()}


def main():
    """One process: scene after scene, the answers in a file."""
    rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.config.update("jax_enable_x64", True)
    at = f"127.0.0.1:{port}"
    options = {"coordinator_bind_address": at, "initialization_timeout": 60}
    jax.distributed.initialize(at, 2, rank, heartbeat_timeout_seconds=10, **options)
    found = {}
    for scene in sys.argv[4:]:
        try:
            found[scene] = told(globals()[scene](folder))
        except (ValueError, ConnectionError) as error:
            found[scene] = {"error": str(error)}
    (folder / f"answer{rank}.json").write_text(json.dumps(found))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
