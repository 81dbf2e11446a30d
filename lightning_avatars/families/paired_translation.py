"""Translation that learns from pairs: pix2pix, pix2pixHD and SPADE."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import OWN_LABELS, EvaluationSet
from lightning_avatars.families.translation import SHOWN, Translation, TranslationStep
from lightning_avatars.images import coloured, to_float
from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.feature_encoder import FeatureEncoder
from lightning_avatars.networks.pix2pixhd import Pix2PixHDTranslator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.objectives.adversarial import Objective
from lightning_avatars.seeding import SeedNoise


class PairedStep(TranslationStep):
    """A turn in which the fake should be its source's other half; the discriminator sees the source too."""

    module: PairedTranslation
    offers = frozenset({"source", "target"})
    handed_over = ("source", "made")

    @cached_property
    def target(self) -> Tensor:
        return self.batch["image"]

    @cached_property
    def source(self) -> Tensor:
        return self.module.source_planes(self.batch)

    @cached_property
    def made(self) -> Tensor:
        with self.graph():
            planes = self.module.with_style(self.source, self.target)
            return self.run(self.module.generator, planes, self.labels, False)

    def shown(self, x: Tensor, stream: str) -> Tensor:
        return torch.cat([self.source, super().shown(x, stream)], 1)


class PairedTranslation(Translation):
    """Translation that learns from pairs: pix2pix (Isola et al. 2017), pix2pixHD (Wang et al. 2018), SPADE (Park 2019).

    What is translated are planes: those of the source picture, one for each class of the label map, and the boundaries
    of the map's regions. The discriminator judges them together with an image, real or made. What these papers have
    beside are terms: ``terms.reconstruction.L1``, ``terms.features``, ``terms.perceptual``. With a generator that has
    an encoder, the generator also sees what the real image is like in each region of the map, and afterwards what such
    regions are like on average, or as ``seeds`` say.

    Args:
        generator: Turns planes into images.
        discriminator: Judges images beside their planes.
        objective: What the two minimise.
        boundaries: Whether there is a plane of the pixels of the label map next to another class (pix2pixHD, Sec. 3.3,
            for classes, where the paper has instances).
        kwargs: Of ``Game``.
    """

    step_class = PairedStep
    generator: Translator

    def __init__(
        self,
        generator: Translator,
        discriminator: Discriminator,
        objective: Objective,
        boundaries: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)
        self.boundaries = boundaries
        self.check()

    def check(self) -> None:
        super().check()
        if self.augment is not None:
            raise ValueError("augment would change images and not what they are translated from: leave it out")

    def compared(self, state: dict[str, Any], data: FaceData) -> list[tuple[str, list[str], list[str]]]:
        channels = state.get("source_channels", 0)
        return [
            *super().compared(state, data),
            ("label maps", state.get("mask_names", []), data.mask_names),
            ("sources", [f"{channels} channels"] * (channels > 0), [f"{data.source_channels} channels"]),
        ]

    def check_data(self, data: FaceData) -> None:
        super().check_data(data)
        if not data.source_channels and not data.mask_names:
            raise ValueError(
                f"{type(self).__name__} learns from pairs, but the pictures of {data.dataset.name} have neither a "
                "source nor a label map: use paired data such as avatar_parts64, or another family"
            )
        if self.boundaries and not data.mask_names:
            raise ValueError(f"boundaries are those of label maps, which {data.dataset.name} has not: leave them out")
        if self.encoder is not None and len(self.encoder.mean) != len(data.mask_names):
            raise ValueError(
                f"the generator's encoder knows {len(self.encoder.mean)} classes, but the label maps of "
                f"{data.dataset.name} have {len(data.mask_names)}: give it the data's mask_names, or leave it out"
            )

    @property
    def encoder(self) -> FeatureEncoder | None:
        """The part of the newest generator that says what real images look like, if any."""
        return encoder_of(self.generator)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.encoder is not None:
            self.encoder.begin()

    def source_planes(self, batch: Batch) -> Tensor:
        planes = [to_float(batch["source"])] if self.source_channels else []
        if self.mask_names:
            classes = torch.arange(len(self.mask_names), device=batch["mask"].device)
            planes.append((batch["mask"] == classes[:, None, None]).float())
            if self.boundaries:
                planes.append(boundaries(batch["mask"]).float())
        return self.ordered(torch.cat(planes, 1))

    def regions(self, planes: Tensor) -> Tensor:
        """Return the planes of the label map's classes."""
        return planes[:, self.source_channels : self.source_channels + len(self.mask_names)]

    def with_style(self, planes: Tensor, images: Tensor) -> Tensor:
        """Add what images are like to the planes that they are made of, where the generator has an encoder."""
        if self.encoder is None:
            return planes
        return self.ordered(torch.cat([planes, self.encoder(images, self.regions(planes))], 1))

    def translate(
        self, batch: Batch, to: str | None = None, labels: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Translate a batch on this module's device with the averaged weights, always in the same way.

        Args:
            batch: Sources and label maps of bytes, whatever the data that it was trained on had.
            to: Not used.
            labels: Label vectors, N L, for conditional modules; by default the batch's own.
            seeds: Whole numbers, N, which say what the regions of label maps look like, where the generator has an
                encoder; by default they look as they do on average.

        Returns:
            Images, N C H W, about in [-1, 1].
        """
        if self.mask_names and int(batch["mask"].max()) >= len(self.mask_names):
            raise ValueError(
                f"a label map names class {int(batch['mask'].max())}, but this model knows {len(self.mask_names)}, "
                f"from 0 to {len(self.mask_names) - 1}: {', '.join(self.mask_names)}"
            )
        planes = self.source_planes(batch)
        labels = batch["labels"] if labels is None and self.conditional else labels
        with self.sampling() as network:
            encoder = encoder_of(network)
            if encoder is not None:
                noise = None
                if seeds is not None:
                    noise = SeedNoise(seeds, "style", self.device).normal("style", *encoder.mean.shape)
                planes = self.ordered(torch.cat([planes, encoder.draw(self.regions(planes), noise)], 1))
            images: Tensor = network(planes, labels)
        return images

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        alike = self.source_channels == batch["image"].shape[1]
        source = batch["source"] if alike else None
        images, labels = self.translate(batch), OWN_LABELS if self.conditional else None
        made = EvaluationSet(images, batch["image"], source=source, mask=batch.get("mask"), labels=labels)
        return {"translation": made}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        some = Batch({name: values[:SHOWN] for name, values in batch.items()})
        image = to_float(some["image"])
        shown = to_float(some["source"] if self.source_channels else coloured(some["mask"], len(self.mask_names)))
        channels = image.shape[1]
        shown = shown if shown.shape[1] == channels else shown.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        return {"translation": torch.stack([shown, self.translate(some), image], 1)}

    def blank(self, images: int, channels: int, resolution: int) -> Batch:
        empty = torch.zeros(images, 1, resolution, resolution, dtype=torch.uint8, device=self.device)
        sources = Batch(mask=empty, source=empty.expand(-1, self.source_channels, -1, -1))
        return super().blank(images, channels, resolution) | sources

    def verdict_on_real(self, batch: Batch) -> Verdict:
        pair = torch.cat([self.source_planes(batch), to_float(batch["image"])], 1)
        verdict: Verdict = self.discriminator(self.ordered(pair), batch["labels"] if self.conditional else None)
        return verdict


def encoder_of(network: nn.Module) -> FeatureEncoder | None:
    """Return the part of a generator that says what real images look like, if any."""
    return network.encoder if isinstance(network, Pix2PixHDTranslator) else None


def boundaries(mask: Tensor) -> Tensor:
    """Find the pixels of label maps, N 1 H W, one of whose four neighbours is of another class: N 1 H W."""
    found = torch.zeros_like(mask, dtype=torch.bool)
    for axis in (2, 3):
        size = mask.shape[axis] - 1
        differs = mask.narrow(axis, 0, size) != mask.narrow(axis, 1, size)
        found.narrow(axis, 0, size).logical_or_(differs)
        found.narrow(axis, 1, size).logical_or_(differs)
    return found
