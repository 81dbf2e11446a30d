"""Games of two players: all that those have in common in which a generator learns from a discriminator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_avatars.data.batches import Batch
from lightning_avatars.ema import Average
from lightning_avatars.families.base import GenerativeModule, check_conditional
from lightning_avatars.families.step import Player, Step
from lightning_avatars.images import to_float
from lightning_avatars.memory import Need, of_activations, of_weights, undisturbed
from lightning_avatars.networks.base import Verdict
from lightning_avatars.networks.feature_encoder import FeatureEncoder
from lightning_avatars.networks.layers.bottlenecks import Bottleneck
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.objectives.adversarial import Objective
from lightning_avatars.recompute import recompute
from lightning_avatars.schedules import Schedule, set_option, value_at
from lightning_avatars.seeding import Draws, seeded
from lightning_avatars.strategies import PhaseDDP
from lightning_avatars.terms.augmentation import check_moved
from lightning_avatars.terms.balance import Balance
from lightning_avatars.terms.base import Term, check_learns, check_terms

TALKERS = (BatchNorm2d, Bottleneck, Balance, FeatureEncoder)  # parts that ask other processes while they train


class Game(GenerativeModule):
    """A generator and a discriminator that take turns, assembled from networks, an objective and terms.

    For each player in turn: collect the terms that are due, sum the named losses, one backward pass per chunk, reduce
    over processes, clip, step. Where both players play on every batch and nothing differentiates the fake or its
    latent, both turns share one fake. Families call ``check`` when all their parts are there.

    Args:
        generator: Makes images.
        discriminator: Judges images.
        objective: What the two minimise.
        adversarial_weight: Factor of the objective in the generator's loss, or a schedule of it. While it is 0 the
            discriminator does not play: a late start is a step from 0.
        generator_optimizer: Makes the generator's optimizer.
        discriminator_optimizer: Makes the discriminator's optimizer.
        generator_terms: The generator's further losses by name.
        discriminator_terms: The discriminator's further losses by name.
        critics: Turns of the discriminator for one of the generator.
        conditional: Whether both networks are given the labels.
        label_dropout: Share of the images whose labels are zeros for both players, so that a conditional generator
            learns to draw without labels too.
        average_half_life: Half-life in images of the generator's average, which makes all samples; null for none.
        optimizer_schedules: ``<player>.<option>`` -> schedule, such as ``generator.lr`` or ``discriminator.beta2``.
        clip_gradients: Largest norm of one player's gradients; null for no limit.
        micro_batch: Largest number of images in one forward pass; gradients of chunks are added, and batch norm sees
            one chunk at a time. Null for no limit.
        augment: ``augment(images, draws, stream)`` between images and discriminator, in both players' turns.
        balance: Weighs the generator's losses by one another, before ``adversarial_weight``.
        scheduled: Path of a buffer, such as ``generator.level`` -> schedule of its value, set before each batch.
        channels_last: Keep convolutions' tensors in channels-last order, which most GPUs and CPUs prefer.
        compile: Compile both networks; turns whose terms differentiate their images run the networks as they are.
        recompute: Parts such as ``generator.stages`` whose activations are computed again in the backward pass, for
            images of 512 x 512 and above: less memory, about a third more time.
        seed: Seed of every draw that training makes.
    """

    step_class: type[Step]
    generator: Any  # what these are is the family's choice
    discriminator: Any

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        objective: Objective,
        adversarial_weight: float | Schedule = 1.0,
        generator_optimizer: OptimizerCallable = Adam,
        discriminator_optimizer: OptimizerCallable = Adam,
        generator_terms: dict[str, Term] | None = None,
        discriminator_terms: dict[str, Term] | None = None,
        critics: int = 1,
        conditional: bool = False,
        label_dropout: float = 0.0,
        average_half_life: float | Schedule | None = 10_000,
        optimizer_schedules: dict[str, Schedule] | None = None,
        clip_gradients: float | None = None,
        micro_batch: int | None = None,
        augment: nn.Module | None = None,
        balance: Balance | None = None,
        scheduled: dict[str, Schedule] | None = None,
        channels_last: bool = True,
        compile: bool = False,
        recompute: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.automatic_optimization = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator = generator.to(memory_format=self.memory_format)
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        self.average = None if average_half_life is None else Average(generator, average_half_life)
        self.averaged = self.average is not None
        self.objective, self.augment, self.balance = objective, augment, balance
        self.adversarial_weight = adversarial_weight
        self.terms = nn.ModuleDict(
            {
                "discriminator": nn.ModuleDict(discriminator_terms or {}),
                "generator": nn.ModuleDict(generator_terms or {}),
            }
        )
        self.optimizer_factories = {"discriminator": discriminator_optimizer, "generator": generator_optimizer}
        self.critics, self.conditional, self.micro_batch = critics, conditional, micro_batch
        self.label_dropout = label_dropout
        self.compiled, self.recomputed = compile, recompute or []
        self.largest_norm = clip_gradients
        self.optimizer_schedules, self.scheduled = optimizer_schedules or {}, scheduled or {}
        self.turns = {"discriminator": 0, "generator": 0}
        self.leader: Player = "discriminator"  # who plays first in this batch

    def check(self) -> None:
        """Raise a ValueError where the parts of the game do not go together, before any training."""
        for name, count in (("critics", self.critics), ("micro_batch", self.micro_batch)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.check_labels()
        check_terms(self)
        if self.balance is not None:
            self.balance.check(self)
        check_moved(self)
        check_learns(self)
        self.check_schedules()

    def check_labels(self) -> None:
        """Raise a ValueError where the networks take other labels than they are given."""
        for network in (self.generator, self.discriminator):
            check_conditional(self.conditional, network)
        if self.label_dropout and not self.conditional:
            raise ValueError("label_dropout is a share of images with labels, and conditional is false: set it to true")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout is a share in [0, 1) of images with labels, got {self.label_dropout}")

    def check_schedules(self) -> None:
        """Raise a ValueError where a schedule has nothing to set."""
        for path in self.scheduled:
            if path not in dict(self.named_buffers()):
                raise ValueError(f"scheduled names {path!r}, which is no buffer of the networks, terms or augmentation")
        levels = {f"{player}.level" for player in self.turns if "level" in dict(getattr(self, player).named_buffers())}
        for path in sorted(levels - self.scheduled.keys()) if levels & self.scheduled.keys() else ():
            raise ValueError(
                f"scheduled sets the level of one player and not {path!r}, so that they would judge and make pictures "
                "of different sizes: give both the same schedule"
            )
        for key in self.optimizer_schedules:
            if key.partition(".")[0] not in self.turns or not key.partition(".")[2]:
                raise ValueError(f"optimizer_schedules names {key!r}; use generator.<option> or discriminator.<option>")

    # --- what others rely on

    @property
    def sampler(self) -> Any:  # noqa: ANN401 - whatever the family's generators are
        return self.average.average if self.average is not None else self.generator

    @contextmanager
    def sampling(self) -> Iterator[Any]:
        """Lend the averaged network as it makes samples: evaluating, in full precision, with the same noise always."""
        network = self.sampler
        training = network.training
        with torch.no_grad(), seeded(0, self.device), torch.autocast(self.device.type, enabled=False):
            yield network.eval()
        network.train(training)

    def sampling_state(self) -> dict[str, Tensor]:
        return {f"generator.{name}": tensor for name, tensor in self.sampler.state_dict().items()}

    def load_sampling_state(self, tensors: dict[str, Tensor]) -> None:
        weights = {name.removeprefix("generator."): tensor for name, tensor in tensors.items()}
        for network in (self.generator, *([self.average.average] if self.average is not None else [])):
            network.load_state_dict(weights)

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"turns": dict(self.turns)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.turns = dict(state["turns"])

    # --- training

    def configure_optimizers(self) -> list[Optimizer]:
        self.trained = {
            player: [
                p for part in (getattr(self, player), self.terms[player]) for p in part.parameters() if p.requires_grad
            ]
            for player in self.turns
        }
        return [self.optimizer_factories[player](self.trained[player]) for player in self.turns]

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, PhaseDDP):
            raise ValueError(
                f"{type(self).__name__} lets players take turns, which {type(self.trainer.strategy).__name__} can't: "
                "use trainer.strategy lightning_avatars.strategies.PhaseDDP, or leave it out on the command line"
            )
        for terms in self.terms.values():
            for term in terms.values():
                term.prepare(self.device)
        recompute(self, self.recomputed)
        if self.compiled:
            self.generator.compile()
            self.discriminator.compile()
        hooks, callbacks = ("on_before_backward", "on_after_backward"), self.trainer.callbacks
        self.heard = any(is_overridden(hook, one) for one in (self, *callbacks) for hook in hooks)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
        """Differentiate; straight by torch where no scaler has a part in it and no hook waits for it.

        To ask each callback whether it has one takes microseconds, but by then activations have driven the code that
        asks from the processor's caches: in DCGAN at 32 x 32 it is 0.6 to 0.8 ms of a batch of 48.
        """
        if self.heard or getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            super().manual_backward(loss, *args, **kwargs)
        else:
            self.backward(loss, *args, **kwargs)

    def blank(self, images: int, channels: int, resolution: int) -> Batch:
        """Make a batch as a turn is given it, of empty pictures."""
        pictures = torch.zeros(images, channels, resolution, resolution, device=self.device)
        return Batch(image=pictures, labels=torch.zeros(images, len(self.label_names), device=self.device))

    def memory_need(self, images: int, channels: int, resolution: int) -> Need:
        images = min(images, self.micro_batch or images)

        def look(player: Player) -> None:
            due = self.due(player)
            differentiates = frozenset(name for term in due.values() for name in term.differentiates)
            draws = Draws(0, 0, images, 0, images, self.device)
            pictures = self.blank(images, channels, resolution)
            step = self.step_class(self, pictures, draws, player, differentiates, keeps_fake=True)
            with self.trainer.precision_plugin.forward_context():
                held.append(self.losses(player, step, due) | {"later": self.adversarial_loss(player, step)})

        held: list[dict[str, Tensor]] = []
        with undisturbed(self, TALKERS):
            return Need(of_weights(self), max(of_activations(partial(look, player)) for player in self.turns))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        draws = self.begin(batch)
        self.apply_schedules()
        batch = batch | {"image": to_float(batch["image"]).contiguous(memory_format=self.memory_format)}

        waits = value_at(self.adversarial_weight, self.images_seen) == 0
        self.leader = "generator" if waits else "discriminator"
        generator_plays = waits or (self.turns["discriminator"] + 1) % self.critics == 0
        due = [term for player in self.turns for term in self.due(player).values()]
        shared = self.critics == 1 and not any({"fake", "latent"} & set(term.differentiates) for term in due)
        handed = None if waits else self.turn("discriminator", batch, draws, shared)
        if generator_plays:
            self.turn("generator", batch, draws, shared, handed)
        self.images_seen += draws.total
        if isinstance(self.trainer.strategy, PhaseDDP):  # not sooner: the shared fake's graph holds them
            parts = (self.generator, self.discriminator, self.terms, self.augment, self.balance)
            self.trainer.strategy.average_buffers(b for part in parts if part is not None for b in part.buffers())
        if self.average is not None:
            self.average.update(self.generator, draws.total, self.images_before + self.images_seen)
        self.log_latest()

    def turn(
        self, player: Player, batch: Batch, draws: Draws, shared: bool, handed: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Let one player look at the batch, chunk by chunk, and step.

        Returns:
            What the next player is handed, and no more: verdicts hold the activations of all layers.
        """
        torch.clear_autocast_cache()  # casts of weights that have since changed, or were made without a graph
        optimizer = self.optimizers()[list(self.turns).index(player)]
        optimizer.zero_grad()
        due = self.due(player)
        differentiates = frozenset(name for term in due.values() for name in term.differentiates)
        size = len(draws)
        chunk = min(self.micro_batch or size, size)
        whole = chunk == size
        reuse = shared and whole
        totals: dict[str, Tensor] = {}
        for p in self.trained["discriminator"]:
            p.requires_grad_(player == "discriminator")

        for first in range(0, size, chunk):
            piece = batch if whole else Batch({k: v[first : first + chunk] for k, v in batch.items()})
            step = self.step_class(
                self, piece, draws if whole else draws.chunk(first, first + chunk), player, differentiates,
                stream="latent" if shared else f"{player}/latent", keeps_fake=reuse,
            )  # fmt: skip
            if reuse and handed is not None:
                step.__dict__.update(handed)
            losses = self.losses(player, step, due)
            if not whole:
                losses = {name: loss * (len(piece["image"]) / size) for name, loss in losses.items()}
            with torch.autocast(self.device.type, enabled=False):  # each operation goes back in its own precision
                self.manual_backward(reduce(add, losses.values()))
            for name, loss in losses.items():
                totals[name] = totals[name] + loss.detach() if name in totals else loss.detach()

        for p in self.trained["discriminator"]:
            p.requires_grad_(True)
        self.finish_turn(player, optimizer)
        for term in due.values():
            term.after_step(step)
        self.turns[player] += 1
        for name, term in self.terms[player].items():
            if term.weight_at(self.images_seen) == 0:
                self.latest.pop(f"{player}/{name}", None)  # turned off: its last value is no news
        self.latest |= {f"{player}/{name}": total for name, total in totals.items()}
        return step.handed() if reuse else {}

    def due(self, player: Player) -> dict[str, Term]:
        """Collect the terms that this turn of the player evaluates."""
        return {
            name: term
            for name, term in self.terms[player].items()
            if self.turns[player] % term.every == 0 and term.weight_at(self.images_seen) != 0
        }

    def losses(self, player: Player, step: Step, due: dict[str, Term]) -> dict[str, Tensor]:
        """Evaluate the player's weighted losses on one chunk, by name."""
        adversarial_weight = value_at(self.adversarial_weight, self.images_seen)
        losses = {"adversarial": self.adversarial_loss(player, step)} if adversarial_weight else {}
        for name, term in due.items():
            loss = term(step)
            if loss is not None:
                losses[name] = term.weight_at(self.images_seen) * term.every * loss
        if player == "generator" and adversarial_weight:
            losses = self.balance(losses, step) if self.balance is not None else losses
            losses["adversarial"] = adversarial_weight * losses["adversarial"]
        return losses

    def adversarial_loss(self, player: Player, step: Step) -> Tensor:
        """Evaluate the player's objective."""
        return self.compare(player, step, step.fake_verdict)

    def compare(self, player: Player, step: Step, verdict: Verdict) -> Tensor:
        """Sum the objective over the discriminator's scales, given its verdict on fakes."""
        fakes = verdict.logits
        if player == "discriminator":
            pairs = zip(step.real_verdict.logits, fakes, strict=True)
            return reduce(add, [self.objective.discriminator(real, fake) for real, fake in pairs])
        reals = step.real_verdict.logits if self.objective.relativistic else [None] * len(fakes)
        return reduce(add, [self.objective.generator(f, r) for f, r in zip(fakes, reals, strict=True)])

    def finish_turn(self, player: Player, optimizer: LightningOptimizer) -> None:
        """Reduce the player's gradients over processes and step; only a batch's first player moves ``global_step``."""
        if isinstance(self.trainer.strategy, PhaseDDP):
            self.trainer.strategy.reduce_gradients(self.trained[player])
        if player == self.leader:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.largest_norm is not None:  # here, for a scaler has just unscaled them
            self.clip_gradients(optimizer, self.largest_norm, "norm")

    def apply_schedules(self) -> None:
        """Set what follows the images seen: buffers of networks, options of optimizers."""
        buffers = dict(self.named_buffers()) if self.scheduled else {}
        for path, schedule in self.scheduled.items():
            buffers[path].fill_(schedule(self.images_seen))
        for key, schedule in self.optimizer_schedules.items():
            player, _, option = key.partition(".")
            optimizer = self.optimizers()[list(self.turns).index(player)]
            for group in optimizer.param_groups:
                set_option(group, option, schedule(self.images_seen), key)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.judge_real(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.judge_real(batch, "test")

    def judge_real(self, batch: Batch, stage: str) -> None:
        """Log the mean logit of pictures never trained on: far below that of training pictures, it overfits."""
        said = [x.flatten() for x in self.verdict_on_real(batch).float().logits]
        logits = torch.cat(said or [torch.zeros(0, device=self.device)])  # of some batches no picture is judged
        mean = logits.sum() / max(len(logits), 1)
        self.log(f"{stage}/logit_real", mean, batch_size=len(logits), sync_dist=True)
        self.log_clock()

    def verdict_on_real(self, batch: Batch) -> Verdict:
        """Ask the discriminator about a batch of held-out pictures."""
        real = to_float(batch["image"]).contiguous(memory_format=self.memory_format)
        verdict: Verdict = self.discriminator(real, batch["labels"] if self.conditional else None)
        return verdict
