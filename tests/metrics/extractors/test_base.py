"""What every extractor does before and around its network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_avatars.metrics.extractors.base import Description, Extractor, full_float32
from lightning_avatars.metrics.kernels import Polynomial


class Linear(Extractor):
    """One product of matrices, so that precision shows."""

    batch = 4

    def __init__(self) -> None:
        super().__init__()
        self.name, self.sha256, self.dim, self.resize = "linear", "0", 5, "none"
        self.network = nn.Linear(3, 5, bias=False)
        self.network.weight.data = torch.linspace(-1, 1, 15).view(5, 3)
        self.sizes: list[int] = []
        self.switches: list[tuple[str, str]] = []

    def prepare(self, images):
        return images.float().mean((2, 3)) / 255

    def describe(self, prepared):
        self.sizes.append(len(prepared))
        self.switches.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        features = self.network(prepared)
        return Description(features, features[:, :2])


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_images_reach_the_network_a_few_at_a_time_and_in_order():
    extractor, images = Linear(), bytes_of(11, 3, 6, 6)
    features, logits = extractor(images)
    assert extractor.sizes == [4, 4, 3] and logits.shape == (11, 2)
    expected = images.double().mean((2, 3)) / 255 @ extractor.network.weight.double().T
    torch.testing.assert_close(features, expected.float(), rtol=1e-5, atol=1e-6)
    assert not features.requires_grad and not logits.requires_grad


def test_lists_of_any_sizes_are_prepared_one_by_one():
    extractor = Linear()
    images = [bytes_of(3, 6 + i, 9) for i in range(6)]
    features = extractor(images).features
    assert extractor.sizes == [4, 2]
    for image, row in zip(images, features, strict=True):
        torch.testing.assert_close(extractor(image[None]).features[0], row)


def test_gray_images_are_seen_in_three_equal_channels():
    gray = bytes_of(2, 1, 6, 6)
    assert torch.equal(Linear()(gray).features, Linear()(gray.expand(-1, 3, -1, -1)).features)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(2, 3, 4, 4), r"torch\.float32 of shape \(2, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8), r"torch\.uint8 of shape \(2, 4, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"torch\.uint8 of shape \(3, 4, 4\)"),
        ([torch.zeros(3, 4, 4)], r"torch\.float32 of shape \(1, 3, 4, 4\)"),
    ],
)
def test_what_are_no_images_of_bytes_is_refused_with_what_to_do(images, said):
    with pytest.raises(ValueError, match=rf"Linear describes uint8 images.*got {said}: use images\.to_bytes"):
        Linear()(images)


def test_autocast_is_off_inside():
    images = bytes_of(4, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = Linear()(images)
    assert inside.features.dtype == torch.float32 and torch.equal(inside.features, Linear()(images).features)


@pytest.fixture
def switches():
    """Torch's switches for TF32, put back at the end."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    kept = [place.fp32_precision for place in places]
    yield places
    for place, value in zip(places, kept, strict=True):
        place.fp32_precision = value


@pytest.mark.parametrize("before", [("tf32", "ieee"), ("ieee", "tf32"), ("tf32", "tf32")])
def test_tf32_is_off_inside_and_put_back_even_after_an_error(before, switches):
    matmul, convolution = switches
    matmul.fp32_precision, convolution.fp32_precision = before
    with pytest.raises(KeyError), full_float32():
        assert (matmul.fp32_precision, convolution.fp32_precision) == ("ieee", "ieee")
        raise KeyError
    assert (matmul.fp32_precision, convolution.fp32_precision) == before
    extractor = Linear()
    extractor(bytes_of(6, 3, 6, 6))
    assert extractor.switches == [("ieee", "ieee")] * 2
    assert (matmul.fp32_precision, convolution.fp32_precision) == before


@pytest.mark.parametrize("precision", ["high", "medium", "highest"])
def test_lightnings_switch_for_products_of_matrices_is_put_back(precision):
    kept = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with full_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(kept)


def test_defaults_are_the_polynomial_kernel_names_with_the_extractors_and_softmax_classes():
    extractor = Linear()
    assert isinstance(extractor.kernel, Polynomial) and extractor.score("fd") == "fd_linear"
    (p,) = extractor.class_probabilities(torch.tensor([[0.0, 1.0]]))
    assert (
        p.dtype == torch.float64 and p.sum() == pytest.approx(1) and p[0, 1] == pytest.approx(1 / (1 + 2.718281828**-1))
    )
    assert extractor.precision == "float32" and extractor.device.type == "cpu" and extractor.classes == 0


@pytest.mark.parametrize("before", [(True, False), (False, True), (True, True)])
def test_the_older_switches_are_as_they_were_afterwards(before, switches):
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = [place.allow_tf32 for place in places]
    try:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
        Linear()(bytes_of(2, 3, 6, 6))
        assert tuple(place.allow_tf32 for place in places) == before
    finally:
        for place, value in zip(places, kept, strict=True):
            place.allow_tf32 = value
