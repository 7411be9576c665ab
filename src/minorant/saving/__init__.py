"""Fits on disk, without pickle, the same to the last bit."""

from minorant.saving.directory import load, load_extra, save

__all__ = ["load", "load_extra", "save"]
