"""The mapping, the mixing of styles and their running mean."""

import pytest
import torch

from lightning_avatars.networks import style
from lightning_avatars.networks.layers.equalized import activate
from lightning_avatars.networks.style import Mapping, StyleGenerator


class Plain(StyleGenerator):
    """Images that are styles."""

    def __init__(self, **arguments):
        super().__init__(Mapping(6, 5, layers=2), 6, 5, 0, styles=4, **arguments)

    def synthesis(self, styles, noise="random"):
        return styles[:, None]


def test_a_mapping_is_layers_of_normalised_latents_and_labels():
    torch.manual_seed(0)
    mapping, z, labels = Mapping(6, 5, 3, layers=1), torch.randn(4, 6), torch.eye(4, 3)
    normal = [x / x.square().mean(1, keepdim=True).sqrt() for x in (z, mapping.embedding.weight)]
    rows = torch.cat([normal[1], torch.zeros(1, 6)])  # the last image has no label
    expected = activate(torch.cat([normal[0], rows], 1) @ mapping.layers[0].weight.T * 0.01 / 12**0.5)
    torch.testing.assert_close(mapping(z, labels), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mapping(3 * z, labels), expected, atol=1e-5, rtol=1e-4)
    assert Mapping(6, 5).double()(z.double()).dtype == torch.double
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mapping(z, labels), mapping(z.float(), labels)) and mapping(z, labels).dtype == torch.float32


@pytest.mark.parametrize("sizes", [[8], [4, 4], [1] * 8])
def test_the_mean_style_forgets_by_images_and_not_by_batches(sizes):
    torch.manual_seed(0)
    generator, z = Plain(mean_half_life=8.0), torch.randn(1, 6).expand(8, -1)
    for part in z.split(sizes):
        generator(part)
    torch.testing.assert_close(generator.style_mean, generator.mapping(z)[0] / 2)
    with torch.no_grad():
        generator(z)  # a discriminator's turn
    generator.eval()(z)
    torch.testing.assert_close(generator.style_mean, generator.mapping(z)[0] / 2)


def test_two_processes_together_have_the_mean_style_of_one(monkeypatch):
    torch.manual_seed(0)
    whole, z = Plain(), torch.randn(8, 6)
    parts = [Plain(), Plain()]
    monkeypatch.setattr(style, "rank_and_world", lambda: (0, 2))
    for part, rows in zip(parts, z.split(4), strict=True):
        part.load_state_dict(whole.state_dict())
        part(rows)
    monkeypatch.undo()
    whole(z)
    torch.testing.assert_close((parts[0].style_mean + parts[1].style_mean) / 2, whole.style_mean)


def test_mixed_styles_are_the_first_latents_up_to_a_layer_and_the_others_from_there():
    torch.manual_seed(0)
    generator = Plain(style_mixing=1.0)
    w = generator.mapping(torch.randn(3000, 6))
    own = (generator.mix(w, None) == w[:, None]).all(2)
    assert own[:, 0].all() and not own[:, -1].any() and not (own[:, 1:] & ~own[:, :-1]).any()
    shares = [(own.sum(1) == layers).float().mean().item() for layers in (1, 2, 3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="mapping_layers must be at least 1, got 0"):
        Mapping(6, 5, layers=0)
    with pytest.raises(ValueError, match="style_mixing is a share"):
        Plain(style_mixing=-0.1)
