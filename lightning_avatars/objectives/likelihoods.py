"""How likely images are, given what a decoder says of them.

A decoder's output has ``channels * parameters_per_channel`` channels: first one number for each channel of the image,
then, where there are two, the second ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus
from torch.special import log_ndtr

from lightning_avatars.seeding import Draws

LEVELS = 255  # steps between black and white
PACE = 3.0  # factor of the one learned spread, which Adam would take 200,000 images to bring to where it belongs


class Likelihood(nn.Module, ABC):
    """A distribution over images, N C H W in [-1, 1], that a decoder's output has the parameters of."""

    parameters_per_channel: int = 1  # numbers that the decoder gives for each channel of each pixel
    of: Literal["bytes", "bits", "density"]  # what has a mass; real numbers have a density alone

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(read_scalars)  # type: ignore[no-untyped-call]

    @abstractmethod
    def log_prob(self, output: Tensor, image: Tensor) -> Tensor:
        """Sum the logarithms of the probabilities, or densities, over pixels and channels: N, in nats."""

    def log_mass(self, output: Tensor, image: Tensor) -> Tensor:
        """Sum the logarithms of the probabilities of pictures, which scores are of: N, in nats.

        That is ``log_prob``, but where it is a density: then, the share of it that lies in the cells of bytes.
        """
        return self.log_prob(output, image)

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Return the mean image, N C H W in [-1, 1]."""

    def target(self, image: Tensor, draws: Draws) -> Tensor:
        """Return the images that are encoded and scored, N C H W in [-1, 1], of pictures: these, by default.

        Args:
            image: Pictures, float, N C H W in [-1, 1].
            draws: Random numbers for the pictures.
        """
        return image

    def facts(self) -> dict[str, str]:
        """Say what ``log_mass`` depends on, for passports."""
        return {"likelihood": type(self).__name__, "of": self.of}

    def check(self, image: Tensor) -> None:
        """Raise a ValueError where pictures, N C H W, are not such that this can be their likelihood."""
        low, high = float(image.min()), float(image.max())
        if not (image.is_floating_point() and low >= -1 - 1e-6 and high <= 1 + 1e-6):
            raise ValueError(
                f"{type(self).__name__} is a likelihood of images in [-1, 1], got {image.dtype} from {low:g} to "
                f"{high:g}: bytes become such images by images.to_float"
            )


def read_scalars(likelihood: Likelihood, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Read what a likelihood learns from older files too, which hold it as a scalar."""
    for name in dict(likelihood.named_parameters(prefix.removesuffix("."))):
        if name in state and state[name].ndim == 0:
            state[name] = state[name].reshape(1)


class Bernoulli(Likelihood):
    """Black and white pixels; the output is the logit of white.

    Grey pictures are made black and white first, anew for every batch: a pixel is white with a probability that is its
    brightness (dynamic binarisation, Burda et al. 2016, Sec. 5). Cross-entropies of grey values, which are no
    likelihoods, are not offered.

    Args:
        stochastic: Make pictures black and white by drawing; if not they must be so already.
    """

    of = "bits"

    def __init__(self, stochastic: bool = True) -> None:
        super().__init__()
        self.stochastic = stochastic

    def facts(self) -> dict[str, str]:
        drawn = "drawn: a pixel is white with a probability that is its brightness"
        return super().facts() | {"binarisation": drawn if self.stochastic else "none: pictures are black and white"}

    def log_prob(self, output: Tensor, image: Tensor) -> Tensor:
        white = (image.to(output) + 1) / 2
        return -binary_cross_entropy_with_logits(output, white, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid() * 2 - 1

    def target(self, image: Tensor, draws: Draws) -> Tensor:
        if not self.stochastic:
            return image
        return (draws.uniform("binarisation", *image.shape[1:]) < (image + 1) / 2).to(image) * 2 - 1

    def check(self, image: Tensor) -> None:
        super().check(image)
        if image.shape[1] != 1:
            raise ValueError(
                f"Bernoulli is a likelihood of black and white pictures, but the data has {image.shape[1]} channels: "
                "use Gaussian or DiscretizedLogistic, or data such as mnist32"
            )
        grey = float((image.abs() < 1 - 1e-3).float().mean())
        if grey and not self.stochastic:
            raise ValueError(
                f"Bernoulli is a likelihood of black and white pictures, but {grey:.0%} of the pixels are grey: set "
                "likelihood.stochastic to true, or use Gaussian or DiscretizedLogistic"
            )


class Gaussian(Likelihood):
    """Normal pixels around the output, all of one deviation, which is learned (sigma-VAE, Rybkin et al. 2021).

    The deviation is in units of the range [-1, 1]. A fixed one turns the likelihood into a squared error. Training
    raises the density; scores are of bytes, each with the share of the normal distribution that lies in its cell, those
    of black and white reaching to infinity.

    Args:
        sigma: Standard deviation at the start.
        learned: Learn the deviation, as one parameter.
        least: Smallest deviation: half a step of a byte hides nothing.
    """

    of = "bytes"

    def __init__(self, sigma: float = 1.0, learned: bool = True, least: float = 1 / LEVELS) -> None:
        super().__init__()
        if not 0 < least < sigma:
            raise ValueError(f"likelihood.sigma must be above likelihood.least, and that above 0; got {sigma}, {least}")
        self.least = math.log(least)
        above = math.log(sigma) - self.least  # the inverse of what log_deviation does
        raw = torch.tensor([(above + math.log(-math.expm1(-above))) / PACE])  # FSDP cuts no scalars
        self.raw = nn.Parameter(raw, requires_grad=learned)

    @property
    def log_deviation(self) -> Tensor:
        """The logarithm of the deviation, kept above its least value softly (Rybkin et al. 2021, Sec. 4.2)."""
        return self.least + softplus(self.raw * PACE)

    def log_prob(self, output: Tensor, image: Tensor) -> Tensor:
        squares = ((image - output) * (-self.log_deviation).exp()).square()
        return -(squares / 2 + self.log_deviation + math.log(2 * math.pi) / 2).flatten(1).sum(1)

    def log_mass(self, output: Tensor, image: Tensor) -> Tensor:
        precision = (-self.log_deviation).exp()
        lower, upper = ((image - output + edge / LEVELS) * precision for edge in (-1, 1))
        inner = log_normal_share(lower, upper)
        inner = torch.where(image > 1 - 1 / LEVELS, log_ndtr(-lower), inner)
        return torch.where(image < -1 + 1 / LEVELS, log_ndtr(upper), inner).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.clamp(-1, 1)


def log_normal_share(lower: Tensor, upper: Tensor) -> Tensor:
    """Take the logarithm of the share of the standard normal distribution between two numbers, in both tails."""
    right = lower + upper > 0
    lower, upper = torch.where(right, -upper, lower), torch.where(right, -lower, upper)  # where digits are not lost
    most = log_ndtr(upper)
    share: Tensor = most + torch.log(-torch.expm1(log_ndtr(lower) - most))
    return share


class DiscretizedLogistic(Likelihood):
    """Bytes, each with the share of a logistic distribution that lies in its cell (Kingma et al. 2016, Eq. 17).

    The cells of black and of white reach to infinity (Salimans et al. 2017, Eq. 2). The output is the mean, and then
    the logarithm of the scale of each pixel relative to one that is learned for all.

    Args:
        scale: Scale of all pixels at the start, in units of the range [-1, 1].
    """

    parameters_per_channel = 2
    of = "bytes"

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"likelihood.scale must be above 0, got {scale}")
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale) / PACE]))

    def log_prob(self, output: Tensor, image: Tensor) -> Tensor:
        mean, relative = output.chunk(2, dim=1)
        inverse = (-(self.log_scale * PACE + relative).clamp(-7.0, 5.0)).exp()
        upper = (image - mean + 1 / LEVELS) * inverse
        lower = (image - mean - 1 / LEVELS) * inverse
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), which is exact in both tails
        width = (2 / LEVELS) * inverse
        inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        inner = torch.where(image > 1 - 1 / LEVELS, logsigmoid(-lower), inner)
        return torch.where(image < -1 + 1 / LEVELS, logsigmoid(upper), inner).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0].clamp(-1, 1)

    def check(self, image: Tensor) -> None:
        super().check(image)
        levels = (image + 1) * LEVELS / 2
        off = float((levels - levels.round()).abs().max())
        if off > 1e-2:
            raise ValueError(
                "DiscretizedLogistic is a likelihood of bytes, but some pixels lie between two of the 256 values: use "
                "Gaussian, or pictures as they come from the data"
            )
