"""Training that starts from weights of another run: one's own faces from a generator of many."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.checkpoints import load_module, read_checkpoint
from lightning_avatars.families.base import FaceModule, GenerativeModule
from lightning_avatars.runs import shortened

LEFT_ALONE = ("terms.", "augment.", "balance.", "pool.")  # what a run learns of its own course


def start_from(module: FaceModule, path: Path) -> None:
    """Take the networks' weights from a checkpoint or from exported weights; clocks and optimizers start at zero.

    The average goes on with the half-life that it had, instead of forgetting what it was given.

    Args:
        module: The module of the new run.
        path: A checkpoint written by ``fit``, or a ``.safetensors`` file that ``export`` wrote.

    Raises:
        ValueError: Networks are not of the same shape; what doesn't fit is named.
    """
    if path.suffix == ".safetensors":
        given = load_module(path)
        if not (isinstance(given, GenerativeModule) and isinstance(module, GenerativeModule)):
            raise ValueError(f"{path} holds a generator: {type(module).__name__} can't start from it")
        check_fit(path, given.sampling_state(), module.sampling_state())
        module.load_sampling_state(given.sampling_state())
        module.images_before = given.images_before + given.images_seen
        rank_zero_warn(f"{path} holds a generator alone: all else starts from new weights")
        return
    saved = read_checkpoint(path).get("state_dict", {})
    own = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(LEFT_ALONE)}
    given = {name: tensor for name, tensor in saved.items() if isinstance(tensor, Tensor)}
    given = {name: tensor for name, tensor in given.items() if not name.startswith(LEFT_ALONE)}
    check_fit(path, given, wanted)
    module.load_state_dict(given, strict=False)
    clocks = saved.get("_extra_state", {})
    module.images_before = clocks.get("images_before", 0) + clocks.get("images_seen", 0)


def check_fit(path: Path, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise where weights don't fit a module."""
    problems = [
        f"{name} is {list(given[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in wanted.items()
        if name in given and (given[name].shape or (1,)) != (tensor.shape or (1,))  # likelihoods of old had scalars
    ]
    problems += [f"{name} is not there" for name in wanted.keys() - given.keys()]
    problems += [f"{name} is not here" for name in given.keys() - wanted.keys()]
    if problems:
        raise ValueError(
            f"the weights of {path} don't fit this model: {shortened(sorted(problems), 8)}. Give the same model "
            "configuration, data.resolution and channels, and as many labels, or none on both sides"
        )


def freeze(module: FaceModule, parts: list[str]) -> None:
    """Keep parts of a module as they are (FreezeD, Mo et al. 2020): their parameters get no gradients.

    Args:
        module: The module.
        parts: Names of parameters, or what they begin with, such as ``discriminator.stages.0``.

    Raises:
        ValueError: A name that no parameter begins with; the nearest ones are given. Or nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for part in parts:
        frozen = [name for name in names if name == part or name.startswith(f"{part}.")]
        if not frozen:
            known = sorted({name.rpartition(".")[0] for name in names})
            raise ValueError(
                f"freeze names {part!r}, with which no parameter of the model begins; the nearest are "
                f"{', '.join(get_close_matches(part, known, 4, 0.3)) or ', '.join(known[:8])}"
            )
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)
    if parts:
        check_trainable(module, parts)


def check_trainable(module: FaceModule, parts: list[str]) -> None:
    """Raise where an optimizer would have nothing to train."""
    nothing = not any(p.requires_grad for p in module.parameters())
    try:
        module.configure_optimizers()
    except ValueError as error:
        if "empty parameter list" not in str(error):  # of torch
            raise
        nothing = True
    if nothing:
        raise ValueError(
            f"freeze {', '.join(parts)} leaves nothing to train of a network that takes turns, or of all: leave a part "
            "of it out, such as its last layers"
        )
