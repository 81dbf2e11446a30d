"""Less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.networks.dcgan import DCGANDiscriminator
from lightning_avatars.networks.r3gan import R3GANDiscriminator
from lightning_avatars.recompute import recompute


def penalised(network: R3GANDiscriminator) -> torch.Tensor:
    """Gradients of a loss with R1, and the bytes that the first pass keeps."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = network(x).logits[0]
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    (logits.square().mean() + gradient.square().sum((1, 2, 3)).mean()).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def kept(network: R3GANDiscriminator) -> int:
    """Bytes that are kept for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor):
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.zeros(4, 3, 32, 32))
    return sum(sizes.values())


def made() -> R3GANDiscriminator:
    torch.manual_seed(0)
    network = R3GANDiscriminator(resolution=32, width=8)
    for p in network.parameters():  # its last layers begin at zero
        torch.nn.init.normal_(p, std=0.1)
    return network


def test_gradients_of_gradients_are_the_same_and_less_is_kept():
    plain, saving = made(), made()
    keys, needed = list(saving.state_dict()), kept(plain)
    recompute(saving, ["stages"])
    torch.testing.assert_close(penalised(saving), penalised(plain), rtol=1e-5, atol=1e-7)
    assert kept(saving) < needed / 2 and list(saving.state_dict()) == keys


def test_a_second_fit_of_a_module_does_not_compute_it_a_third_time():
    network, calls = made(), []
    forward = network.stages[0].forward
    network.stages[0].forward = lambda x: calls.append(1) or forward(x)
    for _ in range(2):
        recompute(network, ["stages", "stages.0"])
        network(torch.zeros(4, 3, 32, 32)).logits[0].sum().backward()
    assert len(calls) == 4, "forwards and again backwards, of each fit"


def test_what_can_not_be_computed_twice_is_refused():
    with pytest.raises(ValueError, match=r"'nowhere', which is no part"):
        recompute(made(), ["nowhere"])
    with pytest.raises(ValueError, match="batch norm would count every image twice"):
        recompute(torch.nn.ModuleDict({"discriminator": DCGANDiscriminator(resolution=32)}), ["discriminator"])
