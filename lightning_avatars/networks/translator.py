"""What a network that turns pictures into pictures looks like to everyone else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Translator(nn.Module, ABC):
    """A network that turns pictures, or planes that describe them, into pictures of the same height and width.

    Args:
        label_dim: Length of the label vectors; 0 for an unconditional network.
        multiple: Heights and widths that the network takes are multiples of this.
        resolution: Height and width of the images that it is trained on.

    Raises:
        ValueError: The resolution is not such a multiple.
    """

    source_channels: int  # planes that it translates

    def __init__(self, label_dim: int = 0, multiple: int = 1, resolution: int = 0) -> None:
        super().__init__()
        self.label_dim, self.multiple = label_dim, multiple
        if resolution % multiple:
            raise ValueError(
                f"{type(self).__name__} cannot halve {resolution} x {resolution} pixels as often as it must: set "
                f"data.resolution to a multiple of {multiple}"
            )

    @abstractmethod
    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make images, N C H W in [-1, 1], from ``source``, N S H W in [-1, 1], and ``labels``, N x label_dim."""

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Layers of the first half, one after the other, for networks that show what they see there."""
        return []

    @property
    def feature_channels(self) -> list[int]:
        """Channels of each layer that ``features`` shows: the source, then each of the ``stages``."""
        return []

    def features(self, source: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Show what the network sees in ``source`` at some layers of its first half, N F h w each.

        Args:
            source: What is translated, N S H W.
            layers: Numbers of layers, ascending; 0 is the source itself, 1 the first of the ``stages``.

        Raises:
            ValueError: The network shows no features, or not these.
        """
        self.check_layers(layers)
        self.check_size(source)
        seen, x = {0: source}, source
        for number, stage in enumerate(self.stages[: layers[-1]], 1):
            seen[number] = x = stage(x)
        return [seen[number] for number in layers]

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse numbers of layers that ``features`` cannot show.

        Raises:
            ValueError: They are not ascending, or some are not there.
        """
        known = len(self.feature_channels)
        if not known:
            raise ValueError(f"{type(self).__name__} shows no features: use another network, as ResidualTranslator")
        if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < known:
            raise ValueError(f"layers are ascending numbers from 0 to {known - 1}, got {list(layers)}")

    def check_size(self, source: Tensor) -> None:
        """Refuse a source whose height or width the network cannot halve as often as it must.

        Raises:
            ValueError: The height or width is not a multiple of ``multiple``.
        """
        height, width = source.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"{type(self).__name__} takes heights and widths that are multiples of {self.multiple}, got "
                f"{height} x {width}: crop, pad or resize the picture"
            )
