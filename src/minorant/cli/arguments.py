"""The arguments of the commands: what each may be, and its help.

A ``{name}`` in an option's help is filled from ``estimators/options.py`` when the help is shown:
sentence, range and default are declared there, once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

import typer


class Model(StrEnum):
    """What ``--model`` may be."""

    GAUSSIAN_MIXTURE = "gaussian-mixture"
    MIXTURE = "mixture"
    LATENT_CLASS = "latent-class"
    FACTOR_ANALYSIS = "factor-analysis"
    PPCA = "ppca"
    FACTOR_MIXTURE = "factor-mixture"
    HIDDEN_MARKOV = "hidden-markov"
    STATE_SPACE = "state-space"
    LATENT_TRAIT = "latent-trait"
    MIXED_MODEL = "mixed-model"
    FLOW_DENSITY = "flow-density"


class Covariance(StrEnum):
    """What ``--covariance`` may be."""

    FULL = "full"
    TIED = "tied"
    DIAGONAL = "diagonal"
    SPHERICAL = "spherical"


class Items(StrEnum):
    """What ``--items`` may be."""

    ONE = "1pl"
    TWO = "2pl"
    THREE = "3pl"
    GRADED = "graded"
    PARTIAL = "partial-credit"
    GENERALIZED = "generalized-partial-credit"


class Family(StrEnum):
    """What ``--family`` may be."""

    NORMAL = "normal"
    BERNOULLI = "bernoulli"
    POISSON = "poisson"


class Request(NamedTuple):
    """What ``minorant fit`` was asked."""

    table: str
    model: str
    components: int | None
    out: str
    covariance: str | None
    types: dict[str, str]
    weights_column: str | None
    labels_column: str | None
    drop: tuple[str, ...]
    starts: str | None
    tolerance: float | None
    max_steps: int | None
    seed: int
    overwrite: bool
    quiet: bool
    on_terminal: bool
    factors: int | None = None
    items: str | None = None
    family: str | None = None
    group: str | None = None
    time: str | None = None
    inputs: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    response: str | None = None
    checkpoint: str | None = None
    resume: bool = False
    memory: str | None = None
    dask: str | None = None


FitDirectory = Annotated[
    str, typer.Argument(metavar="FIT", help="The directory that 'minorant fit' wrote.")
]
Rows = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="The table of rows; - for CSV on input; or a folder or a pattern ('rows/*.parquet') "
        "of Parquet or Arrow files.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
Seed = Annotated[
    int,
    typer.Option(
        metavar="INT",
        min=0,
        help="Seed of everything that is drawn; the same seed gives the same answer.",
    ),
]
Output = Annotated[
    str,
    typer.Option("--out", "-o", metavar="TABLE", help="The table to write; - for CSV on output."),
]


ModelOption = Annotated[
    Model,
    typer.Option(
        metavar="MODEL",
        help="gaussian-mixture: columns of numbers. mixture: columns of any types, independent "
        "given the component. latent-class: columns of categories. factor-analysis, ppca, "
        "factor-mixture: columns of numbers that share few factors. hidden-markov: sequences that "
        "move between few states, columns of any types. state-space: sequences with a linear "
        "Gaussian state. latent-trait: answers to items. mixed-model: a regression with random "
        "effects of groups. flow-density: columns of numbers, any continuous density.",
    ),
]
Components = Annotated[
    int | None, typer.Option("--components", "-k", metavar="INT", help="{n_components}")
]
Factors = Annotated[
    int | None,
    typer.Option(
        "--factors",
        "-l",
        metavar="INT",
        help="Number of factors (factor models), states' dimensions (state-space) or traits "
        "(latent-trait, 1 to 3).",
    ),
]
ItemsOption = Annotated[
    Items | None,
    typer.Option(
        metavar="KIND",
        help="How answers depend on a trait: 1pl, 2pl, 3pl, graded, partial-credit or "
        "generalized-partial-credit.  [default: 2pl; graded where an item has three answers]",
    ),
]
FamilyOption = Annotated[
    Family | None,
    typer.Option(
        metavar="NAME", help="The outcome of a mixed-model: normal, bernoulli or poisson."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column that names each row's sequence or group."),
]
Time = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of times that orders the rows of a sequence; a whole-number time that "
        "is not there is a step without observations. Without it, rows are in order.",
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A column that the model conditions on (mixed-model, state-space). May be repeated.",
    ),
]
Random = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="An input whose coefficient differs between groups, as the intercept does "
        "(mixed-model). May be repeated.",
    ),
]
Response = Annotated[
    str | None, typer.Option(metavar="NAME", help="The column of the outcome (mixed-model).")
]
Directory = Annotated[
    str, typer.Option("--out", "-o", metavar="DIR", help="The directory to write.")
]
CovarianceOption = Annotated[
    Covariance | None,
    typer.Option(
        metavar="SHAPE",
        help="For columns of numbers: full (one matrix per component), tied (one matrix for "
        "all), diagonal (one variance per column and component) or spherical (one variance "
        "per component).  [default: full]",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=TYPE",
        help="The type of a column, in place of the one inferred: gaussian, student-t, "
        "log-normal, gamma, exponential, von-mises, poisson, negative-binomial, bernoulli or "
        "categorical. May be repeated.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of row weights, 0 or more; a whole weight counts as that many copies.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of known components, 0 to K-1; -1 or missing where unknown.",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A column to leave out. May be repeated."),
]
Starts = Annotated[str | None, typer.Option(metavar="INT|auto", help="{n_init}")]
Tolerance = Annotated[float | None, typer.Option(metavar="NATS", help="{tol}")]
MaxSteps = Annotated[int | None, typer.Option(metavar="INT", help="{max_iter}")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the fit that is in DIR.")]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Keep the climb in this directory, at least once a minute and when it is interrupted "
        "(Ctrl-C, SIGTERM). The same command goes on from there, to the same answer. "
        "'minorant status DIR' looks at it.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from --checkpoint, and refuse where there is none.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Read the rows part by part, in about this much memory (500MB, 2GB); of Parquet and "
        "Arrow files. A folder or a pattern is always read so.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bar and no notes, only the result.")
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Let Dask's workers read the files and sum over them: the address of a scheduler "
        "(tcp://host:8786), or 'local' for a process on every core.",
    ),
]
