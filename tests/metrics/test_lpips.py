"""LPIPS against torchmetrics' with the same weights; random ones where the published ones are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet, vgg16

from lightning_avatars.metrics import lpips
from lightning_avatars.metrics.lpips import LPIPS, read_heads
from tests.conf.measuring import shared

FILES = {"alex": "weights/alexnet-features.safetensors", "vgg": "weights/vgg16-features-fp16.safetensors"}


def theirs(ours: LPIPS, network: str, a: Tensor, b: Tensor) -> Tensor:
    """Torchmetrics' distances with the weights of our backbone and the heads that it brings itself."""
    reference = _LPIPS(net=network, pnet_rand=True)
    tensors = ours.features.state_dict()
    reference.net.load_state_dict({name: tensors[name.split(".", 1)[1]] for name in reference.net.state_dict()})
    with torch.no_grad():
        return reference.eval()(a.double().div(127.5).sub(1).float(), b.double().div(127.5).sub(1).float()).flatten()


def pair(side: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(256, (2, 3, channels, side, side + 5), generator=generator)
    return a.to(torch.uint8), b.to(torch.uint8)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("weights"), {}
    for network, make in (("alex", alexnet), ("vgg", vgg16)):
        with torch.device("meta"):
            features = make(weights=None).features
        generator = torch.Generator().manual_seed(1)
        tensors = {}
        for name, p in features.state_dict().items():
            width = 1.0 if p.ndim == 1 else (2 / p[0].numel()) ** 0.5
            tensors[f"features.{name}"] = torch.randn(p.shape, generator=generator) * width
        paths[network] = folder / f"{network}.safetensors"
        save_file(tensors | {"classifier.1.weight": torch.zeros(2)}, paths[network])
    return paths


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Accept weights that nobody published."""
    monkeypatch.setattr(lpips, "locate", lambda *known, path: path)


@pytest.mark.parametrize("network", ["alex", "vgg"])
@pytest.mark.usefixtures("unchecked")
def test_it_equals_that_of_torchmetrics_on_random_weights(network, random_weights):
    ours = LPIPS(network, random_weights[network])
    for side in (ours.least_side, 47):
        a, b = pair(side)
        result = ours(a, b)
        assert result.dtype == torch.float64 and result.min() > 0.001
        torch.testing.assert_close(result, theirs(ours, network, a, b).double(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_it_equals_that_of_torchmetrics_on_published_weights(network):
    ours = LPIPS(network, shared(FILES[network]))
    a, b = pair(48)
    torch.testing.assert_close(ours(a, b), theirs(ours, network, a, b).double(), rtol=2e-6, atol=0)
    assert ours(a, a).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.usefixtures("unchecked")
def test_making_and_using_it_draws_no_random_numbers_and_leaves_its_weights_alone(random_weights):
    before = torch.get_rng_state()
    ours = LPIPS("alex", random_weights["alex"])
    tensors = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    ours(*pair(32))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in ours.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.usefixtures("unchecked")
def test_grey_images_are_scored_as_three_equal_channels(random_weights):
    ours = LPIPS("alex", random_weights["alex"])
    a, b = pair(32, channels=1)
    assert torch.equal(ours(a, b), ours(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


@pytest.mark.usefixtures("unchecked")
def test_autocast_does_not_reach_it(random_weights):
    ours = LPIPS("alex", random_weights["alex"])
    a, b = pair(32)
    expected = ours(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(a, b), expected)


@pytest.mark.parametrize(("network", "side"), [("alex", 31), ("vgg", 16)])
@pytest.mark.usefixtures("unchecked")
def test_images_that_are_too_small_are_refused_and_no_others(network, side, random_weights):
    ours = LPIPS(network, random_weights[network])
    a, b = pair(side - 1)
    with pytest.raises(ValueError, match=f"lpips_{network} needs images of at least {side} x {side} pixels"):
        ours(a, b)
    with pytest.raises(RuntimeError, match="too small"):
        ours.distances(a, b)
    with pytest.raises(ValueError, match="two uint8 batches"):
        ours(a.float(), b.float())


@pytest.mark.usefixtures("unchecked")
def test_gradients_go_to_the_first_image_alone(random_weights):
    ours = LPIPS("alex", random_weights["alex"])
    a, b = (image.float().requires_grad_() for image in pair(32))
    ours.distances(a, b).sum().backward()
    assert a.grad.any() and b.grad is None


@pytest.mark.usefixtures("unchecked")
def test_its_hash_covers_backbone_and_heads(random_weights, monkeypatch):
    before = LPIPS("alex", random_weights["alex"]).sha256
    assert before == LPIPS("alex", random_weights["alex"]).sha256
    with monkeypatch.context() as patch:
        patch.setattr(lpips, "read_heads", lambda network: [2 * head for head in read_heads(network)])
        assert LPIPS("alex", random_weights["alex"]).sha256 != before


def test_other_heads_and_other_weights_are_refused(monkeypatch, random_weights):
    with pytest.raises(ValueError, match="not as it was published"):
        LPIPS("alex", random_weights["alex"])
    monkeypatch.setitem(lpips.HEADS, "alex", "0" * 64)
    with pytest.raises(RuntimeError, match=r"does not have the heads of LPIPS 0\.1 .* install torchmetrics 1\.9\.0"):
        read_heads("alex")


def test_the_heads_have_one_weight_for_each_channel_and_none_is_negative():
    assert [head.shape[1] for head in read_heads("alex")] == [64, 192, 384, 256, 256]
    assert [head.shape[1] for head in read_heads("vgg")] == [64, 128, 256, 512, 512]
    assert all(isinstance(head, Tensor) and head.min() >= 0 for n in ("alex", "vgg") for head in read_heads(n))


def test_it_is_a_module_that_moves_with_its_heads():
    ours = LPIPS("alex", shared(FILES["alex"]))
    assert isinstance(ours, nn.Module) and ours.name == "lpips_alex"
    assert sorted(name for name, _ in ours.named_buffers()) == [f"head{i}" for i in range(5)]
