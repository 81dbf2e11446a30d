"""A PyTorch Lightning experiment framework, with metrics, for generative models of faces and avatars."""

__version__ = "0.1.0"
