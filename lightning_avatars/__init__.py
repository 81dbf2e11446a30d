"""A PyTorch Lightning experiment framework, with metrics, for generative models of faces and avatars."""

from importlib.metadata import version

__version__ = version("lightning-avatars")
