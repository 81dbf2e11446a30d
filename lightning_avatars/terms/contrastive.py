"""Each patch of a translated picture should be like the same patch of its source, and like no other of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_avatars.networks.translator import Translator
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


def patch_contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each query's own key among those of its image (CUT, Eq. 3), a mean over patches, N.

    Args:
        queries: Features of length one, N P F.
        keys: The same patches' features in the other picture, N P F.
        temperature: What similarities are divided by.
    """
    logits = queries @ keys.transpose(1, 2) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
    losses = F.cross_entropy(logits.flatten(0, 1), own, reduction="none")  # in this shape deterministic on a GPU too
    return losses.view(logits.shape[:2]).mean(1)


class PatchNCE(Term):
    """Patches that stay recognisable through a translation (CUT, Park et al. 2020, Eq. 4 and 5).

    The generator's own features of its image's patches must single out those of the same patches of the source. Each
    layer has a head of two linear layers, whose parameters are the generator's. ``identity`` asks the same of pictures
    of the target domain. Patches are drawn for each image.

    Departures, both as in the authors' code: a mean over layers, where Eq. 4 is a sum; no gradient flows into the
    source's features.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 1, and FastCUT's is 10 with no identity.
        every: Turns between evaluations.
        layers: Numbers of the generator's layers, from 0, which is the picture itself. The paper's are those of a
            ResidualTranslator of nine blocks: the picture, both halvings, the first and the fifth block.
        patches: Patches of an image that are compared, or all where a layer has fewer.
        width: Length of the heads' features.
        temperature: What similarities are divided by.
        identity: Factor of the same loss for pictures of the target domain, within this one (Eq. 6); 0 for none.
    """

    player = "generator"

    def __init__(
        self,
        weight: float | Schedule = 1.0,
        every: int = 1,
        layers: Sequence[int] = (0, 2, 3, 4, 8),
        patches: int = 256,
        width: int = 256,
        temperature: float = 0.07,
        identity: float = 1.0,
    ) -> None:
        super().__init__(weight, every)
        if patches < 2 or width < 1 or temperature <= 0 or identity < 0:
            raise ValueError(
                "patches must be at least 2, width at least 1, temperature above 0 and identity 0 or more, got "
                f"{patches}, {width}, {temperature} and {identity}"
            )
        self.layers, self.patches, self.width = tuple(layers), patches, width
        self.temperature, self.identity = temperature, identity
        self.needs = frozenset({"source", "identity"} if identity else {"source"})
        self.heads_of_layers = nn.ModuleList()

    def check(self, module: Game) -> None:
        """Make the heads too, as wide as the generator's layers."""
        generator = module.generator
        if not isinstance(generator, Translator):
            raise ValueError(
                f"PatchNCE compares what the generator sees in patches, but {type(generator).__name__} does not say: "
                "use one that does, such as lightning_avatars.networks.residual_translator.ResidualTranslator"
            )
        generator.check_layers(self.layers)
        channels = generator.feature_channels
        self.heads_of_layers = nn.ModuleList(
            nn.Sequential(nn.Linear(channels[layer], self.width), nn.ReLU(), nn.Linear(self.width, self.width))
            for layer in self.layers
        )
        for head in self.heads_of_layers.modules():
            if isinstance(head, nn.Linear):
                nn.init.normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)

    def forward(self, step: Step) -> Tensor:
        count = len(step.source)
        if not self.identity:
            return self.contrast(step, step.source, step.made).mean()
        sources, images = torch.cat([step.source, step.real]), torch.cat([step.made, step.identity])
        losses = self.contrast(step, sources, images)
        return losses[:count].mean() + self.identity * losses[count:].mean()

    def contrast(self, step: Step, sources: Tensor, images: Tensor) -> Tensor:
        """Compare images with their sources, both 1 or 2 times the step's, over all layers: N."""
        generator = step.module.generator
        assert isinstance(generator, Translator)
        seen = generator.features(images, self.layers)
        with torch.no_grad():
            known = generator.features(sources.detach(), self.layers)
        losses = []
        for head, layer, after, before in zip(self.heads_of_layers, self.layers, seen, known, strict=True):
            places = self.places(step, layer, after.shape[2] * after.shape[3], len(images))
            queries = described(head, after, places)
            with torch.no_grad():
                keys = described(head, before, places)
            with torch.autocast(images.device.type, enabled=False):
                losses.append(patch_contrast(queries, keys, self.temperature))
        return torch.stack(losses).mean(0)

    def places(self, step: Step, layer: int, pixels: int, count: int) -> Tensor:
        """Draw different places of each image at a layer, count x P."""
        kinds = [step.draws.uniform(f"patches/{layer}/{kind}", pixels) for kind in range(count // len(step.draws))]
        return torch.cat(kinds).topk(min(self.patches, pixels), dim=1).indices


def described(head: nn.Module, features: Tensor, places: Tensor) -> Tensor:
    """Describe places, N P, of features, N C h w, by a head: N P F, of length one."""
    flat = features.flatten(2).transpose(1, 2)
    chosen = flat.gather(1, places[:, :, None].expand(-1, -1, flat.shape[2]))
    return F.normalize(head(chosen).float(), dim=2, eps=1e-7)
