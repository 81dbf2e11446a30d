"""Tiny autoencoders, the same weights every time, and a batch for them."""

from __future__ import annotations

from functools import partial

import torch

from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.networks.convolutional import ConvolutionalAutoencoder, QuantizedConvolutionalAutoencoder
from lightning_avatars.networks.layers.bottlenecks import DiagonalGaussian, Plain
from lightning_avatars.networks.layers.quantizers import VectorQuantizer
from lightning_avatars.objectives.likelihoods import DiscretizedLogistic, Gaussian
from lightning_avatars.schedules import Linear
from lightning_avatars.seeding import Draws

CPU = torch.device("cpu")


def network(bottleneck=None, label_dim=0, numbers=1):
    bottleneck = bottleneck or DiagonalGaussian(4)
    return ConvolutionalAutoencoder(8, 3, label_dim, bottleneck, numbers, width=8, max_width=16)


def module(likelihood=None, bottleneck=None, conditional=False, net=None, **arguments):
    """Make a tiny autoencoder, the same weights every time."""
    torch.manual_seed(0)
    likelihood = likelihood or Gaussian()
    net = net or network(bottleneck, 3 if conditional else 0, likelihood.parameters_per_channel)
    arguments = {"optimizer": lambda p: torch.optim.Adam(p, 3e-3), "average_half_life": 50} | arguments
    return Autoencoding(net, likelihood, conditional=conditional, **arguments)


def quantised(**arguments):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4, patience=4)
    net = QuantizedConvolutionalAutoencoder(quantizer, 8, 3, grid=4, width=8, blocks=1)
    return module(Gaussian(0.25, learned=False), net=net, **arguments)


MODULES = {
    "vae": module,
    "plain": lambda **more: module(bottleneck=Plain(4), **more),
    "logistic": lambda **more: module(DiscretizedLogistic(), **more),
    "conditional": partial(module, conditional=True),
    "free_bits": partial(module, free_bits=2.0, kl_weight=Linear(0.0, 1.0, last=80)),
    "words": quantised,
}


def fast(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def batch(count=6):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return {"image": image, "labels": torch.eye(3)[torch.arange(count) % 3]}


def draws(count=6):
    return Draws(0, 0, count, 0, count, CPU)
