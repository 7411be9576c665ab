"""Latent variable models: prior times likelihood."""

from minorant.models.base import AbstractModel, AbstractTractableModel
from minorant.models.mixture import Mixture

__all__ = ["AbstractModel", "AbstractTractableModel", "Mixture"]
