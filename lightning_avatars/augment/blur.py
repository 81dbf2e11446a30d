"""A Gaussian blur in front of the discriminator (Karras et al. 2021, "Alias-Free Generative Adversarial Networks")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_avatars.seeding import Draws


class Blur(nn.Module):
    """Blur all images that the discriminator sees, real and made: StyleGAN3-R collapses early without (Sec. 3.2).

    ``sigma`` is a buffer for a schedule: the paper takes it from 10 pixels to 0 over the first 200,000 images, with
    ``scheduled: {augment.sigma: …}``. At 0 images stay what they are. Rows and columns are products with one matrix
    each, which cost the same for any sigma. Departure: weights of pixels beyond the edges go to those inside, so that
    no dark frame appears.

    Args:
        sigma: Standard deviation in pixels, where no schedule sets it.
    """

    sigma: Tensor

    def __init__(self, sigma: float = 10.0) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma of the blur is in pixels and at least 0, got {sigma}")
        self.register_buffer("sigma", torch.tensor(float(sigma)))

    def forward(self, images: Tensor, draws: Draws, stream: str) -> Tensor:
        """Blur images, N C H W; nothing is drawn."""
        with torch.autocast(images.device.type, enabled=False):
            down, across = (self.weights(size).to(images.dtype) for size in images.shape[2:])
            return down @ images @ across.T

    def weights(self, size: int) -> Tensor:
        """Weights of the pixels of a line, columns, in each of its blurred pixels, rows, whose sums are 1."""
        at = torch.arange(size, device=self.sigma.device)
        distance = (at[:, None] - at) / self.sigma.clamp(min=1e-3)
        return torch.softmax(-distance.square() / 2, 1)
