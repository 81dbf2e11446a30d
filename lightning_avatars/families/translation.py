"""Image-to-image translation: what all ways of learning it have in common."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.game import Game
from lightning_avatars.families.step import Given, Step
from lightning_avatars.images import to_bytes
from lightning_avatars.networks.base import Verdict
from lightning_avatars.networks.layers.equalized import MinibatchDeviation
from lightning_avatars.objectives.adversarial import Objective

SHOWN = 16  # pictures of a preview
MIXERS = (_BatchNorm, MinibatchDeviation)  # parts whose images see each other


class TranslationStep(Step):
    """A turn in which the fake is made of a picture.

    The discriminator's turn asks about real images and fakes at once where its network keeps them apart.
    """

    module: Translation

    @cached_property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """What the discriminator says of real images and of fakes."""
        both = torch.cat([self.shown(getattr(self, name), f"{self.player}/{name}") for name in ("real", "fake")])
        derived = bool(self.differentiates)
        return halves(self.run(self.module.discriminator, both, self.given_to_both, derived))

    @property
    def given_to_both(self) -> Given | None:
        """What the discriminator is given beside real images, followed by fakes."""
        return None if self.labels is None else torch.cat([self.labels, self.labels])

    @property
    def together(self) -> bool:
        """Whether real images and fakes are judged at once."""
        derived = {"real", "fake"} & self.differentiates
        return self.player == "discriminator" and self.module.judges_apart and not derived

    @cached_property
    def real_verdict(self) -> Verdict:
        return self.verdicts[0] if self.together else super().real_verdict

    @cached_property
    def fake_verdict(self) -> Verdict:
        return self.verdicts[1] if self.together else super().fake_verdict


def halves(verdict: Verdict) -> tuple[Verdict, Verdict]:
    """Part what is said of two batches at once."""
    logits, features = ([x.chunk(2) for x in part] for part in (verdict.logits, verdict.features))
    heads = {name: x.chunk(2) for name, x in verdict.heads.items()}
    first, second = (
        Verdict([x[i] for x in logits], [x[i] for x in features], {name: x[i] for name, x in heads.items()})
        for i in range(2)
    )
    return first, second


class Translation(Game):
    """A generator that turns pictures into others, and a discriminator of its images.

    Args:
        generator: Turns pictures into images.
        discriminator: Judges images.
        objective: What the two minimise.
        kwargs: Of ``Game``.
    """

    samples = False

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        objective: Objective,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)
        self.judges_apart = not any(isinstance(part, MIXERS) for part in self.discriminator.modules())

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, FaceData):
            self.check_data(data)

    def check_data(self, data: FaceData) -> None:
        """Raise a ValueError where the data can't be translated; called before training."""
        if data.resolution % self.multiple:
            raise ValueError(
                f"{type(self.generator).__name__} takes heights and widths that are multiples of {self.multiple}, but "
                f"data.resolution is {data.resolution}: change it, or let the generator halve less often"
            )

    def check_alike(self, data: FaceData, state: dict[str, Any] | None = None) -> None:
        """Raise a ValueError where data are of another kind than those that were trained on.

        Args:
            data: The data.
            state: Extra state of the weights that are used; by default the module's own.
        """
        for what, own, theirs in self.compared(self.get_extra_state() if state is None else state, data):
            if own and own != theirs:
                raise ValueError(
                    f"this model was trained on pictures with {what} ({', '.join(own)}), but those of "
                    f"{data.dataset.name} have {', '.join(theirs) or 'none'}: name data like that it was trained on"
                )

    def compared(self, state: dict[str, Any], data: FaceData) -> list[tuple[str, list[str], list[str]]]:
        """List what data must have as those that were trained on: what it is, and the names in the state and there."""
        return [
            ("domains", state.get("domain_names", []), data.domain_names),
            ("labels", state["label_names"] if self.conditional else [], data.label_names),
        ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = getattr(self._trainer, "datamodule", None)  # there is no trainer where Python alone loads it
        if isinstance(data, FaceData):  # before the weights, whose names and shapes differ too
            self.check_alike(data, checkpoint["state_dict"]["_extra_state"])

    def on_validation_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FaceData):
            self.check_alike(data)

    def on_test_start(self) -> None:
        self.on_validation_start()

    def on_predict_start(self) -> None:
        self.on_validation_start()

    @property
    def multiple(self) -> int:
        """Heights and widths that can be translated are multiples of this."""
        return int(self.generator.multiple)

    @abstractmethod
    def source_planes(self, batch: Batch) -> Tensor:
        """Return what the generator sees of a batch: planes, N S H W."""

    @abstractmethod
    def translate(self, batch: Batch, to: str | None = None, labels: Tensor | None = None) -> Tensor:
        """Translate a batch on this module's device with the averaged weights, always in the same way.

        Args:
            batch: Pictures of bytes.
            to: Name of the domain that they go to, where there are domains.
            labels: What they shall show, N L, where attributes are translated.

        Returns:
            Images, N C H W, about in [-1, 1].
        """

    def sample(self, seeds: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        raise ValueError(
            f"{type(self).__name__} makes its pictures of others, not of seeds: use `lightning-avatars translate`"
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"image": to_bytes(self.translate(batch))}

    def ordered(self, x: Tensor) -> Tensor:
        """Lay out an image tensor's memory as the networks like it."""
        return x.contiguous(memory_format=self.memory_format)
