"""StarGAN's networks: published sizes, the labels' head, penalties."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.networks.stargan import StarGANDiscriminator, StarGANTranslator
from lightning_avatars.terms.classification import classification_loss


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_they_have_as_many_parameters_as_the_papers():
    with torch.device("meta"):
        assert count(StarGANTranslator(128, label_dim=5)) == 8_430_528
        assert count(StarGANDiscriminator(128, label_dim=5)) == 44_762_048


def test_a_generator_that_adds_begins_with_the_pictures_as_they_are_and_learns_to_change_them():
    torch.manual_seed(0)
    network = StarGANTranslator(16, label_dim=3, width=4, blocks=1, adds=True)
    source, labels = torch.rand(2, 3, 16, 16) * 2 - 1, torch.eye(3)[:2]
    assert torch.equal(network(source, labels), source)
    network(source, labels).square().mean().backward()
    assert network.output.weight.grad.any()
    with pytest.raises(ValueError, match="adds images of 3 channels to sources of 1"):
        StarGANTranslator(16, source_channels=1, label_dim=3, adds=True)


@pytest.mark.parametrize(("resolution", "layers"), [(128, 6), (64, 5), (32, 4)])
def test_a_verdict_has_a_logit_for_each_of_four_parts_and_one_for_each_label(resolution, layers):
    torch.manual_seed(0)
    network = StarGANDiscriminator(resolution, label_dim=3, width=4, max_width=16)
    verdict = network(torch.randn(2, 3, resolution, resolution))
    assert len(network.stages) == 2 * layers
    assert verdict.logits[0].shape == (2, 1, 2, 2) and verdict.heads["class"].shape == (2, 3)
    assert network.heads == {"class": 3}


def test_every_parameter_learns_from_classes_logits_and_penalties():
    torch.manual_seed(0)
    network = StarGANDiscriminator(16, label_dim=3, width=4)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    verdict = network(x)
    (gradient,) = torch.autograd.grad(verdict.logits[0].sum(), x, create_graph=True)
    loss = classification_loss(verdict.heads["class"], labels, ["hair=red", "hair=blue", "smiles"])
    (loss + verdict.logits[0].mean() + (gradient.square().sum((1, 2, 3)).sqrt() - 1).square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_logits_and_classes_are_float32_under_autocast():
    network = StarGANDiscriminator(16, label_dim=3, width=4)
    with torch.autocast("cpu", torch.bfloat16):
        verdict = network(torch.randn(2, 3, 16, 16))
    assert verdict.logits[0].dtype == verdict.heads["class"].dtype == torch.float32


def test_a_discriminator_without_labels_or_pixels_is_refused():
    with pytest.raises(ValueError, match="conditional"):
        StarGANDiscriminator(16)
    with pytest.raises(ValueError, match="layers"):
        StarGANDiscriminator(16, label_dim=2, layers=6)


def reach(network):
    """How far a label moves pixels in the middle, against the deviation of pixels."""
    source = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, other = torch.eye(2)[:1].expand(4, -1), torch.eye(2)[1:].expand(4, -1)
    with torch.no_grad():
        image = network(source, one)
        change = (image - network(source, other))[:, :, 16:-16, 16:-16].abs().mean()
    return float(change / image.std())


def test_shifts_bring_labels_to_the_middle_of_the_image():
    torch.manual_seed(0)
    plain = StarGANTranslator(64, label_dim=2, width=8, blocks=2)
    shifted = StarGANTranslator(64, label_dim=2, width=8, blocks=2, shifts=True)
    shifted.load_state_dict(plain.state_dict(), strict=False)
    assert reach(shifted) > 1.5 * reach(plain) > 0


def test_shifts_learn_as_all_else_does():
    torch.manual_seed(0)
    network = StarGANTranslator(16, label_dim=2, width=4, blocks=1, shifts=True)
    (network(torch.randn(2, 3, 16, 16), torch.eye(2)) * torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_projected_logits_are_the_plain_ones_and_what_labels_make_of_the_features():
    torch.manual_seed(0)
    plain, told = (StarGANDiscriminator(16, label_dim=3, width=4, projects=projects) for projects in (False, True))
    plain.load_state_dict(told.state_dict(), strict=False)
    x, labels = torch.randn(2, 3, 16, 16), torch.tensor([[0.0, 1, 0], [3, 0, 4]])
    features = plain.stages(x).flatten(1)
    a, b, c = told.embedding.weight
    more = torch.einsum("nf,nf->n", features, torch.stack([b, 0.6 * a + 0.8 * c]))[:, None, None, None]
    torch.testing.assert_close(told(x, labels).logits[0], plain(x, labels).logits[0] + more)
    torch.testing.assert_close(told(x, labels).heads["class"], plain(x).heads["class"])
    with pytest.raises(ValueError, match="give it labels"):
        told(x)
