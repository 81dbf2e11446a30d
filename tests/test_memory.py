"""What a run will need, found without computing anything."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from lightning_avatars.augment import filters
from lightning_avatars.augment.adaptive import AdaptiveAugment
from lightning_avatars.memory import Need, keep_freed_memory, of_activations, of_weights
from lightning_avatars.networks.r3gan import R3GANDiscriminator
from lightning_avatars.terms.augmentation import AdaptiveStrength
from lightning_avatars.terms.gradients import R1
from tests.conf.training import fit, game


def test_activations_are_those_that_a_real_pass_keeps():
    network, kept, held = R3GANDiscriminator(resolution=32, width=8), {}, []

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.zeros(4, 3, 32, 32))
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    expected = sum(count for place, count in kept.items() if place not in own)
    assert of_activations(lambda: network(torch.zeros(4, 3, 32, 32))) == pytest.approx(expected, rel=0.01)


def test_weights_count_gradients_and_two_moments_where_they_are_trained():
    layer = torch.nn.Linear(10, 10)
    assert of_weights(layer) == 4 * 110 * 4
    assert of_weights(layer.requires_grad_(False)) == 110 * 4
    assert str(Need(3 * 2**30, 2**29)) == "about 3.5 GiB: 3.0 of weights and 0.5 of activations"
    assert str(Need(3 * 2**20, 2**19)) == "about 3.5 MiB: 3.0 of weights and 0.5 of activations"


def test_a_game_knows_its_need_and_is_not_changed_by_being_asked(tmp_path):
    module = game(normalized=True)
    fit(module, tmp_path, images=8)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    need, twice = (module.memory_need(images, 3, 8) for images in (8, 16))
    assert 1.5 < twice.activations / need.activations < 2.1 and twice.weights == need.weights
    module.micro_batch = 8
    assert module.memory_need(16, 3, 8) == need
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_penalties_and_half_precision_are_part_of_it(tmp_path):
    plain, penalised, half = game(), game(discriminator_terms={"r1": R1()}), game()
    fit(plain, tmp_path / "plain", images=8)
    fit(penalised, tmp_path / "penalised", images=8)
    fit(half, tmp_path / "half", images=8, precision="bf16-mixed")
    needs = [module.memory_need(64, 3, 8).activations for module in (plain, penalised, half)]
    assert needs[1] > 1.3 * needs[0] and needs[2] < needs[0]


def test_a_game_with_adaptive_augmentation_learns_after_it_was_asked(tmp_path):
    """Nothing without numbers may stay behind: networks would train on it and never change."""
    module = game(augment=AdaptiveAugment(filters=1.0), discriminator_terms={"strength": AdaptiveStrength()})
    fit(module, tmp_path, images=8)
    for constant in (filters.enlarger, filters.reducer, filters.equalizer):
        constant.cache_clear()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    assert module.memory_need(8, 3, 8).activations > 0
    assert not [name for name, buffer in module.named_buffers() if isinstance(buffer, FakeTensor)]
    fit(module, tmp_path, images=24)
    changed = {name.partition(".")[0] for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert {"generator", "discriminator"} <= changed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not told")
def test_what_a_batch_frees_serves_the_next_one():
    command, root = [sys.executable, "-m", __name__], Path(__file__).parents[1]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert before > 20_000  # pages of 4 KiB, of three times 30 MiB
    assert after < 500


def page_faults() -> int:
    """Let a batch's tensors come and go; count the pages that the kernel is asked for."""
    counts = []
    for _ in range(2):
        tensors = [torch.zeros(30 * 2**18) for _ in range(3)]
        del tensors
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[1] - counts[0]


if __name__ == "__main__":
    print(page_faults())
    keep_freed_memory()
    print(page_faults())
