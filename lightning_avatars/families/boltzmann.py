"""Deep belief networks: restricted Boltzmann machines that train one after the other, and then all together."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import SGD, Optimizer

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.ema import Average
from lightning_avatars.families.base import EvaluationSet, LatentModule
from lightning_avatars.images import to_float
from lightning_avatars.latents import Prior
from lightning_avatars.metrics.annealed import Ratio, estimated_log_partition
from lightning_avatars.metrics.processes import add_up, exact
from lightning_avatars.networks.boltzmann import BernoulliUnits, BoltzmannMachine, DeepBelief, Noise
from lightning_avatars.schedules import Schedule, Steps, set_option
from lightning_avatars.seeding import Draws, SeedNoise, TorchNoise
from lightning_avatars.strategies import PhaseDDP

STATISTICS = 2_000  # training pictures that a machine's first biases come from
COMPARED = 1_000  # training pictures whose free energy is compared with that of held-out ones


class TopUnits(Prior):
    """Zeros and ones, equally likely: what chains of the topmost machine begin with."""

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2, (count, dim), generator=generator, device=generator.device).float()


class DeepBeliefNetwork(LatentModule):
    """A stack of restricted Boltzmann machines (Hinton, Osindero and Teh 2006).

    One machine trains at a time, on states that are drawn, anew for each picture, from the frozen machines below it.
    What it minimises is the mean free energy of these minus that of its chains, whose gradient is that of contrastive
    divergence (Hinton 2002) or, where chains persist, of stochastic maximum likelihood (Tieleman 2008). A machine whose
    time is over is frozen as its average. After the last one all may be fine-tuned together by the up-down algorithm
    (Hinton et al. 2006, Appendix B): the wake pass trains what goes down, the sleep pass what goes up, and the topmost
    machine goes on as before.

    Departures from the papers: hidden states are drawn wherever theirs are probabilities, so that each machine is the
    model whose likelihood is estimated; weights are averaged; biases do not decay.

    Persistent chains are kept by every process, and each moves its share of them; they are drawn for all at once, so
    that training does not depend on the number of processes, but for rounding. One that tips a single state sends its
    chain another way: long runs on one and on two processes are equally good, and not equal.

    Args:
        network: The machines.
        layer: Which of them trains, 0 first, over images: ``Steps`` such as {0: 0, 300000: 1}. One more than the last
            stands for fine-tuning.
        optimizer: Makes the optimizer of all machines; those that do not train have no gradients in it.
        optimizer_schedules: Option of the optimizer, such as ``lr`` or ``momentum`` -> schedule.
        steps: Gibbs steps of chains for each batch: the k of CD-k.
        chains: Persistent chains; 0 lets chains begin at the pictures of each batch.
        average_half_life: Half-life in images of the network's average, which makes all samples; null for none.
        sampling_steps: Gibbs steps of the chains that samples come from. They begin at persistent chains, one of which
            a seed picks, or at random states where there are none: it takes those very long to find a digit.
        annealing_steps: Temperatures at which the partition function is estimated; 0 to leave that out.
        annealing_chains: Chains that estimate it.
        seed: Seed of every draw that training makes.
    """

    encodes = True

    def __init__(
        self,
        network: DeepBelief,
        layer: Schedule,
        optimizer: OptimizerCallable = SGD,
        optimizer_schedules: dict[str, Schedule] | None = None,
        steps: int = 1,
        chains: int = 0,
        average_half_life: float | Schedule | None = 10_000,
        sampling_steps: int = 200,
        annealing_steps: int = 500,
        annealing_chains: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.automatic_optimization = False
        self.network, self.layer, self.optimizer = network, layer, optimizer
        self.optimizer_schedules = optimizer_schedules or {}
        self.steps, self.chains = steps, chains
        self.average = None if average_half_life is None else Average(network, average_half_life)
        self.averaged = self.average is not None
        self.prior = TopUnits()
        self.sampling_steps = sampling_steps
        self.annealing_steps, self.annealing_chains = annealing_steps, annealing_chains
        self.level = -1  # the machine that trains; none has begun
        self.partition: tuple[int, Ratio] | None = None  # after so many images
        self.last_level = len(network.machines) - (len(network.machines) == 1)
        self.check()
        for level, machine in enumerate(network.machines):
            kept = torch.zeros(chains, machine.hidden, dtype=torch.uint8)
            self.register_buffer(f"chains_{level}", kept, persistent=chains > 0)

    def check(self) -> None:
        """Raise a ValueError where values make no sense, before any training."""
        least = {"steps": 1, "chains": 0, "sampling_steps": 1, "annealing_steps": 0, "annealing_chains": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.layer(0) != 0:
            raise ValueError(f"layer begins with machine {self.layer(0):g}, but the first one to train is 0")
        if isinstance(self.layer, Steps):  # others are checked as they rise
            for (_, before), (images, level) in pairwise(self.layer.values.items()):
                self.check_turn(int(before), int(level), images)

    def check_turn(self, before: int, level: int, images: int) -> None:
        """Raise a ValueError where no machine's time can come after that of the one ``before``."""
        if level not in (before, before + 1) or level > self.last_level:
            raise ValueError(
                f"layer goes from {before} to {level} after {images} images, but it is the number of a machine and "
                f"rises by ones up to {self.last_level} ({len(self.network.machines)} machines, and then all of them "
                "together, where there are more than one)"
            )

    # --- what others rely on

    @property
    def sampler(self) -> DeepBelief:
        found = self.average.average if self.average is not None else self.network
        assert isinstance(found, DeepBelief)
        return found

    def topmost(self) -> BoltzmannMachine:
        """Copy the topmost machine in use, in float64.

        There, a product of matrices comes out as near as makes no difference however many rows it has: not one state
        in 10^15 is another one in another batch.
        """
        machine = self.sampler.machine(int(self.sampler.depth) - 1)
        return copy.deepcopy(machine).requires_grad_(False).to(exact(self.device), torch.float64)

    @torch.no_grad()
    def latents(self, seeds: Tensor) -> Tensor:
        machine = self.topmost()
        noise = SeedNoise(seeds, "sample", machine.weight.device)
        kept = self.get_buffer(f"chains_{int(self.sampler.depth) - 1}").to(machine.weight)
        if len(kept):
            h = kept[(noise.uniform("which") * len(kept)).long()]
        else:
            h = (noise.uniform("start", machine.hidden) < 0.5).to(machine.weight)
        h = machine.gibbs(h, self.sampling_steps, noise, "chain")[1]
        return h.float().to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.sampler.truncated(latents, labels, truncation_psi)

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.sampler.encode(images)

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        images = self.decode(self.encode(to_float(batch["image"])))
        return {"reconstruction": EvaluationSet(images, batch["image"], mask=batch.get("mask"))}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        images = to_float(batch["image"][:32])
        pairs = torch.stack([images, self.decode(self.encode(images))], 1).flatten(0, 1)
        return {"samples": self.sample(torch.arange(64)), "reconstructions": pairs}

    @torch.no_grad()
    def log_weights(self, batch: Batch, samples: int, draws: Draws) -> Tensor | None:
        if not self.annealing_steps:
            return None
        network, log_partition = self.sampler, self.log_partition().log_ratio
        images, depth = to_float(batch["image"]), int(network.depth)
        noise = TorchNoise(len(images), images.device)
        with torch.autocast(self.device.type, enabled=False):
            v = network.pixels(images, draws)
            weights = [network.log_weight(v, noise, depth) for _ in range(samples)]
        return torch.stack(weights, 1) - log_partition

    def likelihood_facts(self) -> dict[str, str]:
        if not self.annealing_steps:
            return {}
        estimate = f"ln Z by annealed importance sampling, {self.annealing_chains} chains x {self.annealing_steps}"
        if isinstance(self.network.machine(0).visible, BernoulliUnits):
            drawn = "drawn: a pixel is white with a probability that is its brightness"
            return {"likelihood": f"Boltzmann machine; {estimate}", "of": "bits", "binarisation": drawn}
        return {"likelihood": f"Boltzmann machine of standardised pixels; {estimate}", "of": "density"}

    def sampling_state(self) -> dict[str, Tensor]:
        weights = {f"network.{name}": tensor for name, tensor in self.sampler.state_dict().items()}
        return weights | {name: tensor for name, tensor in self.state_dict().items() if name.startswith("chains_")}

    def load_sampling_state(self, tensors: dict[str, Tensor]) -> None:
        weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        for network in {self.network, self.sampler}:
            network.load_state_dict(weights)
        self.load_state_dict({name: t for name, t in tensors.items() if name.startswith("chains_")}, strict=False)

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"level": self.level}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.level, self.partition = state["level"], None

    # --- training

    def configure_optimizers(self) -> Optimizer:
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        weights = [p for name, p in named if name.endswith("weight")]
        biases = [p for name, p in named if not name.endswith("weight")]
        return self.optimizer([{"params": weights}, {"params": biases, "weight_decay": 0.0}])

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, PhaseDDP):
            raise ValueError(
                f"{type(self).__name__} lets machines train in turn, which {type(self.trainer.strategy).__name__} "
                "can't: use trainer.strategy lightning_avatars.strategies.PhaseDDP, or leave it out on the command line"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.move_on()
        local, world = len(batch["image"]), self.trainer.world_size
        draws = self.draws(local * world)
        for option, schedule in self.optimizer_schedules.items():
            for group in self.trainer.optimizers[0].param_groups:
                if not (option == "weight_decay" and group is self.trainer.optimizers[0].param_groups[1]):
                    set_option(group, option, schedule(self.images_seen), option)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with torch.autocast(self.device.type, enabled=False):  # probabilities have no room for rounding
            losses = self.losses(to_float(batch["image"]), draws)
            self.manual_backward(sum(losses.values()))
        if isinstance(self.trainer.strategy, PhaseDDP):
            self.trainer.strategy.reduce_gradients(p for p in self.network.parameters() if p.grad is not None)
        optimizer.step()
        self.images_seen += local * world
        if self.average is not None:
            self.average.update(self.network, local * world, self.images_before + self.images_seen)
        self.latest |= {f"train/{name}": loss.detach() for name, loss in losses.items()}
        self.log_latest()

    def draws(self, total: int) -> Draws:
        """Make random numbers for this process's share of some rows."""
        part = self.part(total)
        return Draws(self.seed, self.images_seen, total, part.start, part.stop, self.device)

    def part(self, total: int) -> slice:
        """Say which of so many rows are this process's."""
        rank, world = self.global_rank, self.trainer.world_size
        return slice(rank * total // world, (rank + 1) * total // world)

    def move_on(self) -> None:
        """Let the machine begin whose time has come."""
        level = int(self.layer(self.images_seen))
        if level != self.level:
            self.check_turn(self.level, level, self.images_seen)
            self.begin(level)

    @torch.no_grad()
    def begin(self, level: int) -> None:
        """Freeze the machine below as its average, and give a machine its first biases."""
        self.network.load_state_dict(self.sampler.state_dict())
        if level < len(self.network.machines):
            self.network.stack(level)
            pictures = to_float(self.training_pictures(STATISTICS)[0]).to(self.device)
            states = self.network.up(self.network.pixels(pictures), level + 1)[-1]
            self.network.machine(level).visible.begin(states)
        if isinstance(self.trainer.strategy, PhaseDDP):  # machines of several kinds may round otherwise
            self.trainer.strategy.average_buffers([*self.network.parameters(), *self.network.buffers()])
        if self.average is not None:
            self.average.average.load_state_dict(self.network.state_dict())
        self.level = level
        self.latest.clear()

    def training_pictures(self, most: int) -> tuple[Tensor, Tensor]:
        """Read some training pictures, bytes N C H W, and their places in the store."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FaceData):
            raise ValueError("a deep belief network takes its first biases from the data: train it with a FaceData")
        train = torch.from_numpy(data.store.split("train"))
        index = train[torch.linspace(0, len(train) - 1, min(most, len(train))).long()]
        return torch.from_numpy(data.store.read(index.numpy())), index

    def losses(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Evaluate the losses of the machine that trains, or of all, by name."""
        together = self.level == len(self.network.machines)
        depth = self.level + (not together)
        states = self.network.up(self.network.pixels(images, draws), depth, draws)
        machine = self.network.machine(depth - 1)
        chain_draws = self.draws(self.chains) if self.chains else draws
        fantasies, share = self.fantasies(machine, states[-1], depth - 1, chain_draws)
        contrast = machine.free_energy(states[-1]).mean() - machine.free_energy(fantasies).sum() * share
        if not together:
            return {"contrast": contrast}
        dreams = self.network.down(fantasies, depth, chain_draws)
        wake = torch.stack([self.network.generative(i, *pair).mean() for i, pair in enumerate(pairwise(states))])
        sleep = torch.stack([self.network.recognised(i, *pair).sum() for i, pair in enumerate(pairwise(dreams))])
        return {"contrast": contrast, "wake": -wake.sum(), "sleep": -sleep.sum() * share}

    def fantasies(self, machine: BoltzmannMachine, v: Tensor, level: int, draws: Noise) -> tuple[Tensor, float]:
        """Move this process's chains; return their visible states and what each counts in a mean over all."""
        if not self.chains:
            h = machine.draw_hidden(v, draws, "start")
            return machine.gibbs(h, self.steps, draws, "chain")[0], 1 / len(v)
        part = self.part(self.chains)
        kept = self.get_buffer(f"chains_{level}")
        visible, h = machine.gibbs(kept[part].to(v.dtype), self.steps, draws, "chain")
        kept.zero_()
        kept[part] = h.to(kept.dtype)
        add_up(kept)
        return visible, self.trainer.world_size / self.chains

    # --- evaluation

    @torch.no_grad()
    def log_partition(self) -> Ratio:
        """Estimate the logarithm of the topmost machine's partition function, once for the weights as they are."""
        if self.partition is None or self.partition[0] != self.images_seen:
            machine = self.topmost()
            noise = SeedNoise(torch.arange(self.annealing_chains), "annealing", machine.weight.device)
            found = estimated_log_partition(machine, noise, self.annealing_chains, self.annealing_steps)
            self.partition = self.images_seen, found
        return self.partition[1]

    def on_validation_epoch_start(self) -> None:
        self.totals = torch.zeros(4, dtype=torch.float64, device=exact(self.device))

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images = to_float(batch["image"])
        error = (self.decode(self.encode(images)) - images).square().flatten(1).mean(1) / 4
        found = torch.stack([*self.energies(images, batch["index"]), error, torch.ones_like(error)])
        self.totals += found.double().sum(1).to(self.totals.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    @torch.no_grad()
    def energies(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the topmost machine's free energy, and the weight of one draw of hidden states, of pictures."""
        network, noise = self.sampler, SeedNoise(index, "evaluation", self.device)
        with torch.autocast(self.device.type, enabled=False):
            v, depth = network.pixels(images, noise), int(network.depth)
            top = network.up(v, depth, noise)[-1]
            return network.machine(depth - 1).free_energy(top), network.log_weight(v, noise, depth)

    def on_validation_epoch_end(self) -> None:
        self.report("val")

    def on_test_epoch_end(self) -> None:
        self.report("test")

    def report(self, stage: str) -> None:
        """Log what held-out pictures are to the network, and how far above training pictures' their free energy is."""
        add_up(self.totals)
        free_energy, log_weight, error = (self.totals[:3] / self.totals[3]).tolist()
        pictures, index = self.training_pictures(COMPARED)
        trained = float(self.energies(to_float(pictures).to(self.device), index)[0].double().mean())
        found = {"free_energy": free_energy, "free_energy_gap": free_energy - trained, "reconstruction_error": error}
        if self.annealing_steps:
            ratio = self.log_partition()
            found |= {"log_partition": ratio.log_ratio, "log_partition_error": ratio.error}
            found["log_likelihood"] = log_weight - ratio.log_ratio
        self.log_dict({f"{stage}/{name}": value for name, value in found.items()}, batch_size=1, sync_dist=True)
        self.log_clock()
