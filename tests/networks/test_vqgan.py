"""VQGAN's networks: sizes, gradients, words and labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lightning_avatars.networks.layers.bottlenecks import Plain
from lightning_avatars.networks.layers.quantizers import FiniteScalarQuantizer, VectorQuantizer
from lightning_avatars.networks.vqgan import VQGAN, Attention, Down, KLAutoencoder, Residual, Up, norm
from tests.conf.adversarial_autoencoders import tiny_kl, tiny_vqgan

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("label_dim", [0, 3])
@pytest.mark.parametrize("make", [tiny_vqgan, tiny_kl])
def test_a_gradient_reaches_every_parameter_and_the_same_seed_gives_the_same_output(make, label_dim):
    labels = torch.eye(3) if label_dim else None
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        network = make(label_dim, attention=[8])
        made = network(IMAGES, labels)
        outputs.append(made.output)
    assert torch.equal(*outputs) and made.output.shape == IMAGES.shape
    (made.output.square().mean() + sum(made.losses.values()) + sum(rate.mean() for rate in made.rates)).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_gradients_go_straight_through_the_words():
    """The encoder's gradient is the decoder's at the words, as if these were the features."""
    torch.manual_seed(0)
    network = tiny_vqgan().eval()
    weights = torch.randn(3, 3, 8, 8)
    features = network.encoder(IMAGES).detach().requires_grad_()
    (network.decoder(network.quantizer(features).latents) * weights).sum().backward()
    words = network.quantizer.mean(features.detach()).requires_grad_()
    (network.decoder(words) * weights).sum().backward()
    torch.testing.assert_close(features.grad, words.grad)
    assert not torch.allclose(features.detach(), words.detach())


@pytest.mark.parametrize("make", [tiny_vqgan, tiny_kl])
def test_latents_stand_for_images(make):
    torch.manual_seed(0)
    network = make().eval()
    latents = network.encode(IMAGES)
    assert latents.shape == (3, network.latent_dim) == (3, 64)
    assert network.decode(latents).shape == IMAGES.shape
    noise = torch.randn(3, 64)
    assert network.from_normal(noise).shape == (3, 64)


def test_words_stand_for_images_and_normal_numbers_become_words():
    torch.manual_seed(0)
    network = tiny_vqgan().eval()
    codes = network.encode_codes(IMAGES)
    assert codes.shape == (3, *network.places) == (3, 4, 4) and network.codebook == 16
    assert torch.equal(codes, network(IMAGES).codes)
    torch.testing.assert_close(network.decode_codes(codes), network.decode(network.encode(IMAGES)))
    torch.testing.assert_close(network.decode_codes(codes), network(IMAGES).output)
    words = network.from_normal(torch.randn(2, 64)).unflatten(1, (4, 4, 4)).permute(0, 2, 3, 1)
    distances = (words[..., None, :] - network.quantizer.codewords).norm(dim=-1)
    assert distances.min(-1).values.max() < 1e-6


def test_any_quantizer_makes_a_grid_of_words():
    network = VQGAN(16, 1, 0, FiniteScalarQuantizer([5, 5]), width=8, multipliers=(1, 1, 2))
    made = network(torch.randn(2, 1, 16, 16))
    assert network.codebook == 25 and made.codes.shape == (2, 4, 4)
    assert made.rates[0].tolist() == pytest.approx([16 * math.log(25)] * 2)


def test_labels_change_what_is_encoded_and_decoded():
    torch.manual_seed(0)
    network = tiny_kl(3, bottleneck=Plain(4)).eval()
    labels = torch.eye(3)
    latents = network.encode(IMAGES, labels)
    assert (latents - network.encode(IMAGES, labels.roll(1, 0))).abs().max() > 1e-3
    assert (network.decode(latents, labels) - network.decode(latents, labels.roll(1, 0))).abs().max() > 1e-3


def test_attention_is_that_of_one_head_over_all_places():
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(2, 8, 3, 5)
    q, k, v = (part.flatten(2).mT for part in layer.look(layer.norm(x)).chunk(3, 1))
    seen = (q @ k.mT / 8**0.5).softmax(-1) @ v
    expected = x + layer.output(seen.mT.reshape(2, 8, 3, 5))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(seen, scaled_dot_product_attention(q, k, v))


def test_groups_have_four_channels_or_more():
    assert [norm(c).num_groups for c in (4, 8, 32, 96, 128, 512)] == [1, 2, 8, 8, 32, 32]


def test_the_published_network_has_the_published_blocks():
    """Esser et al. 2021, Table 7, at five resolutions with two blocks: vqgan_imagenet_f16_1024."""
    sizes = {"width": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2, "attention": [16]}
    with torch.device("meta"):
        network = VQGAN(256, 3, 0, VectorQuantizer(1024, 256), **sizes)
    blocks = [
        tuple(sum(isinstance(layer, kind) for layer in half.modules()) for kind in (Residual, Attention, Down, Up))
        for half in (network.encoder, network.decoder)
    ]
    assert blocks == [(12, 3, 4, 0), (17, 4, 0, 4)] and network.places == (16, 16)
    assert {layer.norm2.num_groups for layer in network.modules() if isinstance(layer, Residual)} == {32}
    assert network.decoder.input.out_channels == 512 and network.decoder.output.in_channels == 128


BAD = [{"multipliers": (1, 2, 2, 2)}, {"multipliers": ()}, {"width": 6}, {"blocks": 0}]


@pytest.mark.parametrize("arguments", BAD)
def test_networks_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="multipliers"):
        tiny_vqgan(**arguments)


def test_a_codebook_belongs_into_a_network_with_codes():
    with pytest.raises(ValueError, match="VQGAN"):
        KLAutoencoder(8, 3, 0, VectorQuantizer(16, 4))
