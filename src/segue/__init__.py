"""Segue makes the images between two images, with latent diffusion models."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("segue")
