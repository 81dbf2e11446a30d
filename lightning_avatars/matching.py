"""Values that the parts of a configuration must agree on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.data.base import FaceData
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.latents import Prior


def match_seed(config: Namespace) -> None:
    """Make ``seed_everything`` the seed of the data's order and of all that training draws."""
    seed = int(config.seed_everything)
    for part, owner in (("data", config.data), ("model", config.model.init_args)):
        if "seed" not in owner:  # a family of someone else's that draws nothing
            continue
        if owner.seed not in (0, seed):
            rank_zero_warn(f"{part}.seed is {owner.seed} in the configuration, but seed_everything {seed} is used")
        owner.seed = seed


def match_data(model: Namespace, data: Namespace) -> None:
    """Give the networks the data's resolution, channels and labels; say so where that overrides something.

    Raises:
        ValueError: Labels are asked for that the data has not, or that the networks are not given.
    """
    served = instantiate_data(data)
    conditional = model.init_args.get("conditional", False)
    facts: dict[str, Callable[[], object]] = {
        "resolution": lambda: served.resolution,
        "channels": lambda: served.channels,
        "label_dim": lambda: len(served.label_names) if conditional else 0,
        "label_names": lambda: served.label_names,
        "domain_names": lambda: served.domain_names,
        "source_channels": lambda: source_planes(model, served),
        "mask_names": lambda: served.mask_names,
        "code_dim": lambda: code_dim(model),
        "parameters_per_channel": lambda: parameters_per_channel(model),
    }
    for node in classes(model.init_args):
        defaults = inspect.signature(locate(node.class_path)).parameters
        for name in sorted(facts.keys() & vars(node.init_args).keys()):
            given, value = node.init_args[name], facts[name]()
            default = defaults[name].default
            differs = given not in (value, list(default) if isinstance(default, tuple) else default)
            if differs and name == "label_dim":
                has = f"the data has {value} labels" if conditional else "conditional is false: it is given none"
                raise ValueError(
                    f"{node.class_path}: label_dim is {given} in the configuration, but {has}. Leave label_dim out, "
                    "for it comes from the data, and say conditional: true or false"
                )
            if differs:
                source = {"code_dim": "prior", "parameters_per_channel": "likelihood"}.get(name, "data")
                said = f"{name} is {given} in the configuration, but the {source} has {value}"
                rank_zero_warn(f"{node.class_path}: {said}")
            node.init_args[name] = value


def source_planes(model: Namespace, data: FaceData) -> int:
    """Count the planes that paired translation makes images of; 0 for other models."""
    if not issubclass(locate(model.class_path), PairedTranslation):
        return 0
    return data.source_channels + len(data.mask_names) + int(model.init_args.boundaries)


def say_dropped_terms(config: Namespace) -> None:
    """Say which terms of earlier configuration files are gone, for a later file's dict replaces an earlier one's."""
    files = [Path(file.absolute) for file in config.get("config") or []]
    brought = [model_in(file) for file in files]
    if "__path__" in config.model:
        brought.append(yaml.safe_load(Path(config.model["__path__"].absolute).read_text()))
    for key in ("generator_terms", "discriminator_terms"):
        kept = config.model.init_args.get(key) or {}
        named = {name for model in brought for name in model.get("init_args", {}).get(key) or {}}
        dropped = sorted(named - set(kept))
        if dropped:
            rank_zero_warn(f"{key} of a later configuration dropped {', '.join(dropped)}: list all terms to keep")


def model_in(file: Path) -> dict[str, object]:
    """Read the model that a configuration file brings, in itself or by the name of another file."""
    model = (yaml.safe_load(file.read_text()) or {}).get("model") or {}
    return yaml.safe_load((file.parent / model).read_text()) if isinstance(model, str) else model


def instantiate_data(data: Namespace) -> FaceData:
    """Make the DataModule alone, without touching a picture."""
    parser = ArgumentParser()
    parser.add_class_arguments(FaceData, "data", fail_untyped=False)
    return parser.instantiate_classes(Namespace(data=data.clone())).data


def code_dim(model: Namespace) -> int:
    """Count the numbers that tell the codes of the model's prior."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(Prior, "prior")
    prior = model.init_args.get("prior")
    return parser.instantiate_classes(Namespace(prior=prior.clone())).prior.code_dim if prior is not None else 0


def parameters_per_channel(model: Namespace) -> int:
    """Look up how many numbers the model's likelihood takes for each channel of a pixel."""
    likelihood = model.init_args.get("likelihood")
    return int(locate(likelihood.class_path).parameters_per_channel) if likelihood is not None else 1


def data_of(config: dict[str, Any]) -> FaceData:
    """Make the DataModule that a checkpoint's configuration names; exported weights may leave it out."""
    if "data" not in config:
        raise ValueError("these weights do not say where the pictures are that they were trained on: name data by -c")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FaceData, "data", fail_untyped=False)
    return parser.instantiate_classes(parser.parse_object({"data": config["data"]})).data


def classes(config: object) -> Iterator[Namespace]:
    """Walk every ``class_path`` with arguments inside a configuration."""
    if isinstance(config, Namespace):
        if isinstance(config.get("init_args"), Namespace):
            yield config
        config = vars(config)
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from classes(value)
