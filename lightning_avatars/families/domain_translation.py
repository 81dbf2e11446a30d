"""Translation between domains without pairs: CycleGAN, which goes both ways, and CUT, which goes one."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.families.game import Game
from lightning_avatars.families.step import Given, Player, Step
from lightning_avatars.families.translation import SHOWN, Translation, TranslationStep
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.memory import Need
from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.per_domain import PerDomainDiscriminator, PerDomainTranslator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.objectives.adversarial import Objective
from lightning_avatars.pool import HistoryPool
from lightning_avatars.seeding import Draws


class CycleStep(TranslationStep):
    """A turn in which each picture goes to the other domain; domains take turns in a batch.

    Fakes stand where a real image of their domain stands: what is made of picture 0, of domain 0, is image 1.
    """

    module: DomainTranslation
    offers = frozenset({"cycled", "identity"})
    handed_over = ("source", "outputs")

    @property
    def given(self) -> Given:
        return (0, 1)  # which network each image goes through: that of its own domain

    @property
    def given_to_both(self) -> Given:
        return self.given

    @cached_property
    def source(self) -> Tensor:
        return swapped(self.batch["image"])

    @cached_property
    def outputs(self) -> Tensor:
        """What the generators make of pictures of the other domain and, where it is asked for, of their own."""
        asked = any("identity" in term.needs for term in self.module.due("generator").values())
        kept = self.player == "generator" or self.keeps_fake
        with self.graph():
            inputs = torch.cat([self.source, self.batch["image"]]) if asked and kept else self.source
            return self.run(self.module.generator, inputs, self.given, False)

    @cached_property
    def made(self) -> Tensor:
        return self.outputs[: len(self.source)]

    @cached_property
    def identity(self) -> Tensor:
        return self.outputs[len(self.source) :]

    @cached_property
    def fake(self) -> Tensor:
        pool = self.module.pool
        if self.player == "generator" or pool is None:
            return super().fake
        return self.leaf("fake", pool.mix(self.made.detach(), self.draws))

    @cached_property
    def cycled(self) -> Tensor:
        return self.run(self.module.generator, swapped(self.made), self.given, False)


def swapped(x: Tensor) -> Tensor:
    """Let the rows of each pair change places: b0 a0 b1 a1 … from a0 b0 a1 b1 …."""
    return torch.stack([x[1::2], x[::2]], 1).flatten(0, 1)


class DomainTranslation(Translation):
    """Translation between two domains without pairs, both ways at once: CycleGAN (Zhu et al. 2017).

    There is a generator to each domain and a discriminator of each; what the paper has beside are terms:
    ``terms.cycle.Cycle`` and ``Identity``. A generator makes fakes and identities in one pass, a discriminator judges
    real images and fakes in one. Losses are means over the images of both domains, where the paper adds up the two.

    Args:
        generator: Has a translator to each domain.
        discriminator: Has a discriminator of each domain.
        objective: What they minimise.
        pool: Fakes of the past, half of what the discriminators judge; null for none.
        kwargs: Of ``Game``.
    """

    step_class: type[Step] = CycleStep
    generator: PerDomainTranslator
    discriminator: PerDomainDiscriminator

    def __init__(
        self,
        generator: PerDomainTranslator,
        discriminator: PerDomainDiscriminator,
        objective: Objective,
        pool: HistoryPool | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)
        self.pool = pool
        self.check()

    def check(self) -> None:
        if self.micro_batch is not None and self.micro_batch % 2:
            raise ValueError(f"micro_batch must be even, for domains take turns in a batch, got {self.micro_batch}")
        super().check()

    def check_labels(self) -> None:
        if self.conditional or self.label_dropout:
            raise ValueError("networks of domains are given no labels: set conditional to false")
        self.check_parts()

    def check_parts(self) -> None:
        """Raise a ValueError where there is not one network for each domain, or a pool has other domains."""
        for part, kind in ((self.generator, PerDomainTranslator), (self.discriminator, PerDomainDiscriminator)):
            if not isinstance(part, kind):
                raise ValueError(
                    f"{type(self).__name__} has networks for each domain, but got a {type(part).__name__}: use "
                    f"lightning_avatars.networks.per_domain.{kind.__name__}, which makes one for each"
                )
        names = [list(part.networks) for part in (self.generator, self.discriminator)]
        if names[0] != names[1]:
            raise ValueError(
                f"generators are to {', '.join(names[0])} and discriminators of {', '.join(names[1])}: give both the "
                "same domain_names, in the same order"
            )
        if self.pool is not None and self.pool.domains != len(names[0]):
            raise ValueError(
                "pool keeps images of both domains in one place: give it the domain_names that the networks have"
            )

    def check_data(self, data: FaceData) -> None:
        super().check_data(data)
        if len(data.domain_names) != 2:
            have = f"has {len(data.domain_names)}, {', '.join(data.domain_names)}" if data.domain_names else "has none"
            raise ValueError(
                f"{type(self).__name__} goes between two domains, but {data.dataset.name} {have}: use data of two, "
                "such as avatar_styles64, or between more AttributeTranslation, such as stargan, by their labels"
            )
        parted = isinstance(self.generator, PerDomainTranslator)
        if parted and list(self.generator.networks) != data.domain_names:
            raise ValueError(
                f"the networks are of the domains {', '.join(self.generator.networks)}, but {data.dataset.name} has "
                f"{', '.join(data.domain_names)}: give them these as domain_names, in this order"
            )
        shape = (data.channels, data.resolution, data.resolution)
        if self.pool is not None and tuple(self.pool.images.shape[2:]) != shape:
            raise ValueError(
                f"pool keeps images of {tuple(self.pool.images.shape[2:])}, but the data's are {shape}: give it their "
                "channels and resolution"
            )

    @property
    def directions(self) -> dict[str, tuple[int, int]]:
        if len(self.domain_names) != 2:
            return {}
        first, second = self.domain_names
        return {f"{first}_to_{second}": (0, 1), f"{second}_to_{first}": (1, 0)}

    def source_planes(self, batch: Batch) -> Tensor:
        return self.ordered(to_float(batch["image"]))

    def network_to(self, sampler: nn.Module, domain: int) -> nn.Module:
        """Choose the network that makes images of a domain."""
        found: nn.Module = sampler.networks[self.domain_names[domain]]
        return found

    def translate(self, batch: Batch, to: str | None = None, labels: Tensor | None = None) -> Tensor:
        targets = {self.domain_names[after]: after for _, after in self.directions.values()}
        if to is None and len(targets) == 1:
            (to,) = targets
        if to not in targets:
            asked = "say where pictures shall go" if to is None else f"nothing leads to {to!r}"
            raise ValueError(f"{asked}: to {' or '.join(targets) or 'no domain, for this model has seen none'}")
        return self.carried(self.source_planes(batch), targets[to])

    def carried(self, pictures: Tensor, domain: int) -> Tensor:
        """Translate pictures, of which there may be none, to a domain."""
        if not len(pictures):
            return pictures
        with self.sampling() as sampler:
            images: Tensor = self.network_to(sampler, domain)(pictures)
        return images

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        sets = {}
        for name, (before, after) in self.directions.items():
            here, there = (batch["image"][batch["domain"] == domain] for domain in (before, after))
            images = self.carried(self.ordered(to_float(here)), after)
            sets[name] = EvaluationSet(images, reference=there, source=here)
            if (after, before) in self.directions.values():
                back = self.carried(self.ordered(to_float(to_bytes(images))), before)
                maps = batch["mask"][batch["domain"] == before] if "mask" in batch else None
                sets[f"{name}_to_{self.domain_names[before]}"] = EvaluationSet(back, here, mask=maps)
        return sets

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        pictures = self.source_planes(batch)
        made, there = to_bytes(pictures), torch.zeros_like(batch["domain"], dtype=torch.bool)
        for before, after in self.directions.values():
            rows = batch["domain"] == before
            made[rows] = to_bytes(self.carried(pictures[rows], after))
            there |= rows
        return {"image": made[there], "index": batch["index"][there]}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        shown = {}
        for name, (before, after) in self.directions.items():
            here = to_float(batch["image"][batch["domain"] == before][:SHOWN])
            rows = [here, self.carried(self.ordered(here), after)]
            if (after, before) in self.directions.values():
                rows.append(self.carried(rows[1], before))
            shown[name] = torch.stack(rows, 1)
        return shown

    def verdict_on_real(self, batch: Batch) -> Verdict:
        verdicts = []
        for judge, number in self.judges():
            pictures = batch["image"][batch["domain"] == number]
            if len(pictures):  # held-out pictures come domain by domain
                verdicts.append(judge(self.ordered(to_float(pictures))))
        return Verdict([logits for verdict in verdicts for logits in verdict.logits])

    def judges(self) -> list[tuple[nn.Module, int]]:
        """Pair each discriminator with the number of the domain whose images it judges."""
        return [(judge, number) for number, judge in enumerate(self.discriminator.each)]

    def finish_turn(self, player: Player, optimizer: LightningOptimizer) -> None:
        super().finish_turn(player, optimizer)
        if self.pool is not None:
            self.pool.keep()

    def memory_need(self, images: int, channels: int, resolution: int) -> Need:
        try:
            return super().memory_need(images, channels, resolution)
        finally:
            if self.pool is not None:
                self.pool.waiting.clear()


class OneWayStep(TranslationStep):
    """A turn in which pictures of the first domain become images of the second, which real images are of."""

    module: OneWayTranslation
    offers = frozenset({"source", "identity"})
    handed_over = ("outputs",)

    def __init__(
        self,
        module: OneWayTranslation,
        batch: Batch,
        draws: Draws,
        player: Player,
        differentiates: frozenset[str] = frozenset(),
        stream: str = "latent",
        keeps_fake: bool = False,
    ) -> None:
        super().__init__(module, batch, draws, player, differentiates, stream, keeps_fake)
        self.source, self.real = batch["image"][::2], self.leaf("real", batch["image"][1::2])
        total, start, stop = (number // 2 for number in (draws.total, draws.start, draws.stop))
        self.draws = Draws(draws.seed, draws.images_seen, total, start, stop, draws.device)  # of pairs

    @cached_property
    def outputs(self) -> Tensor:
        """What the generator makes of pictures and, where it is asked for, of real images between them."""
        asked = any("identity" in term.needs for term in self.module.due("generator").values())
        kept = self.player == "generator" or self.keeps_fake
        with self.graph():
            inputs = self.batch["image"] if asked and kept else self.source
            return self.run(self.module.generator, inputs, None, False)

    @cached_property
    def made(self) -> Tensor:
        return self.outputs if len(self.outputs) == len(self.source) else self.outputs[::2]

    @cached_property
    def identity(self) -> Tensor:
        return self.outputs[1::2]


class OneWayTranslation(DomainTranslation):
    """Translation from the first of two domains to the second without pairs: CUT (Park et al. 2020).

    What the paper has beside is a term: ``terms.contrastive.PatchNCE``.

    Args:
        generator: Turns pictures into images of the second domain.
        discriminator: Judges those.
        objective: What the two minimise.
        kwargs: Of ``Game``.
    """

    step_class = OneWayStep
    generator: Translator
    discriminator: Discriminator

    def __init__(
        self,
        generator: Translator,
        discriminator: Discriminator,
        objective: Objective,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)

    def check_parts(self) -> None:
        if self.pool is not None:
            raise ValueError("pool keeps images of both domains, but only one way is learned: leave it out")
        Game.check_labels(self)  # and not one network for each domain

    @property
    def directions(self) -> dict[str, tuple[int, int]]:
        return dict(list(super().directions.items())[:1])

    def network_to(self, sampler: nn.Module, domain: int) -> nn.Module:
        return sampler

    def judges(self) -> list[tuple[nn.Module, int]]:
        return [(self.discriminator, 1)]
