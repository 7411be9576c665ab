"""Distributions over latents: exact posteriors and families."""

from minorant.posteriors.base import AbstractPosterior
from minorant.posteriors.categorical import Categorical

__all__ = ["AbstractPosterior", "Categorical"]
