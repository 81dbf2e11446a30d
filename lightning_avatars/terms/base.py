"""What every regulariser and auxiliary loss is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_avatars.schedules import Schedule, value_at

if TYPE_CHECKING:
    from lightning_avatars.families.adversarial import Step


class Term(nn.Module):
    """A weighted loss beside a player's objective, or an action after its step.

    State lives in buffers; a term's own parameters belong to its player's optimizer.

    Args:
        weight: Factor of the loss, or a schedule of it; 0 turns the term off.
        every: Turns between evaluations; the loss counts ``every`` times as much when it is due (StyleGAN2, Sec. 3.1).
    """

    # What is differentiated: "real", "fake" and "latent" of the step, which must carry gradients, or images of its own.
    # Turns with any of it run the networks uncompiled.
    differentiates: tuple[str, ...] = ()

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts turns and must be at least 1, got {every}")
        self.weight, self.every = weight, every

    def weight_at(self, images_seen: int) -> float:
        return value_at(self.weight, images_seen)

    def forward(self, step: Step) -> Tensor | None:
        """Evaluate the unweighted loss on one chunk of a batch, a mean over its images; None if there is none."""
        return None

    def after_step(self, step: Step) -> None:
        """Act once the player has stepped; ``step`` is the turn's last chunk."""
