"""Which published bounds are reproduced: where the data are, how high the best is, our targets.

Bounds, in nats: for Stan's models the highest of all runs and seeds in Agrawal, Sheldon & Domke
(2020), "Advances in black-box VI", `data/df_all_results_final_metrics.csv` of their repository
(flows, 30,000 steps of 100 draws, five step sizes, up to ten importance samples); for the other
four Geffner & Domke (2023), tables 1 to 3, the best of all methods (150,000 steps).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import published_gym as gym
from benchmarks import published_models as joint
from benchmarks import published_sums as summed
from benchmarks import published_words as words
from benchmarks.published_data import ARRAYS, FOLDER, STAN, Data, arrays, r_dump
from minorant.targets import Target

Builder = Callable[[Data], Target] | None
_ARM = "example-models-master/ARM"
_BPA = "example-models-master/BPA"
_BUGS = "example-models-master/bugs_examples"
_MISC = "example-models-master/misc"


class Case(NamedTuple):
    """One published bound.

    Attributes:
        path: data, from the root of the checkout.
        best: the highest published bound, in nats.
        joint: the target as published.
        summed: the target with what is local integrated out.
    """

    path: str
    best: float
    joint: Builder
    summed: Builder = None


def _electric(name: str) -> str:
    return f"{_ARM}/Ch.23/{name}.data.R"


_STAN = {
    "dogs": Case(f"{_ARM}/Ch.24/dogs.data.R", -298.26, joint.dogs),
    "wells": Case(f"{_ARM}/Ch.7/wells.data.R", -2041.90, joint.wells),
    "wells_dist": Case(f"{_ARM}/Ch.5/wells_dist.data.R", -2046.51, joint.wells_dist),
    "congress": Case(f"{_ARM}/Ch.7/congress.data.R", 738.80, joint.congress),
    "mesquite_volume": Case(f"{_ARM}/Ch.4/mesquite_volume.data.R", 12.52, joint.mesquite_volume),
    "electric_one_pred": Case(_electric("electric_one_pred"), -641.55, joint.electric_one_pred),
    "test_simplex": Case("eg_stan/test-simplex.data.R", -4.34, words.test_simplex),
    "naive_bayes": Case("eg_stan/naive-bayes.data.R", -3615.07, words.naive_bayes),
    "multi_logit": Case(f"{_MISC}/multi-logit/multi_logit.data.R", -553.42, joint.multi_logit),
    "cjs_mnl": Case(f"{_BPA}/Ch.07/cjs_mnl.data.R", -451.50, joint.cjs_mnl),
    "cjs_t_t": Case(f"{_BPA}/Ch.07/cjs_t_t.data.R", -451.50, joint.cjs_t_t),
    "Dynocc": Case(f"{_BPA}/Ch.13/Dynocc.data.R", -2125.16, joint.dynocc),
    "lda": Case(f"{_MISC}/cluster/lda/lda.data.R", -341.96, words.lda, words.lda_summed),
    "election88": Case(
        f"{_ARM}/Ch.14/election88.data.R", -7533.39, joint.election88, summed.election88
    ),
    "electric_chr": Case(
        _electric("electric_chr"), -510.60, joint.electric_chr, summed.electric_chr
    ),
    "electric_1a_chr": Case(
        _electric("electric_1a_chr"), -420.07, joint.electric_1a, summed.electric_1a
    ),
    "electric_1c_chr": Case(
        _electric("electric_1c_chr"), -277.66, joint.electric_1c, summed.electric_1c
    ),
    "radon_redundant_chr": Case(
        f"{_ARM}/Ch.19/radon_redundant_chr.data.R",
        -216.86,
        joint.radon_redundant,
        summed.radon_redundant,
    ),
    "radon_vary_si_chr": Case(
        f"{_ARM}/Ch.13/radon_vary_si_chr.data.R", -101.32, joint.radon_vary_si, summed.radon_vary_si
    ),
    "hiv_chr": Case(f"{_ARM}/Ch.20/hiv_chr.data.R", -72.80, joint.hiv, summed.hiv),
    "hepatitis": Case(
        f"{_BUGS}/vol3/hepatitis/hepatitis.data.R", -50.77, joint.hepatitis, summed.hepatitis
    ),
    "endo3": Case(f"{_BUGS}/vol2/endo/endo3.data.R", -118.84, joint.endo3, summed.endo3),
    "Mh": Case(f"{_BPA}/Ch.06/Mh.data.R", 21.14, joint.mh, summed.mh),
    "Mth": Case(f"{_BPA}/Ch.06/Mth.data.R", -151.78, joint.mth, summed.mth),
    "lsat": Case(f"{_BUGS}/vol1/lsat/lsat.data.R", -1557.34, joint.lsat, summed.lsat),
    "irt": Case(f"{_MISC}/irt/irt.data.R", -15423.82, joint.irt, summed.irt),
    "irt_multilevel": Case(
        f"{_MISC}/irt/irt_multilevel.data.R", -14607.99, joint.irt_multilevel, summed.irt_multilevel
    ),
    "gp_predict": Case(
        f"{_MISC}/gaussian-process/gp-predict.data.R", 301.87, None, summed.gp_predict
    ),
}

_GYM = {
    "brownian": (0.9, gym.brownian, gym.brownian_summed),
    "seeds": (-73.6, gym.seeds, gym.seeds_summed),
}
_LOGISTIC = {"ionosphere": -111.7, "sonar": -108.9}

BEST = (
    {name: case.best for name, case in _STAN.items()}
    | {name: case[0] for name, case in _GYM.items()}
    | _LOGISTIC
)


def forms(name: str) -> list[str]:
    """How a case can be written: ``joint``, ``summed`` or both."""
    if name in _LOGISTIC:
        return ["joint"]
    if name in _GYM:
        return ["joint", "summed"]
    case = _STAN[name]
    return [form for form in ("joint", "summed") if getattr(case, form)]


def there(name: str) -> bool:
    """Whether its data are."""
    path = _path(name)
    return path is None or path.exists()


def target(name: str, form: str) -> Target:
    """The target of a case."""
    path = _path(name)
    if path is None:
        return _GYM[name][1 + (form == "summed")]()
    if name in _LOGISTIC:
        return gym.logistic(*arrays(path))
    return getattr(_STAN[name], form)(r_dump(path))


def _path(name: str) -> Path | None:
    """Where the data of a case are; None for those in this repository."""
    if name in _GYM:
        return None
    if name in _LOGISTIC:
        return FOLDER / ARRAYS / f"{name}_full.pkl"
    return FOLDER / STAN / _STAN[name].path
