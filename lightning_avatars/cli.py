"""The command line: fit, validate, test and predict by LightningCLI, and the tools beside them."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars import shipped
from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.guard import Guard, Rollback
from lightning_avatars.callbacks.likelihood import LikelihoodQuality
from lightning_avatars.callbacks.predictions import Predictions
from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.progress import ImageProgress
from lightning_avatars.callbacks.reconstruction import ReconstructionQuality
from lightning_avatars.callbacks.results import RecognitionQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.base import FaceData
from lightning_avatars.disk import put_in_place
from lightning_avatars.families.base import FaceModule, check_precision
from lightning_avatars.launch import live_with_launcher
from lightning_avatars.loggers import default_loggers
from lightning_avatars.matching import match_data, match_seed, say_dropped_terms
from lightning_avatars.runs import (
    continued,
    discard_empty_run,
    experiment_name,
    hold,
    rank,
    release,
    run_folder,
    run_of,
)
from lightning_avatars.strategies import PhaseDDP
from lightning_avatars.tools.compare import compare
from lightning_avatars.tools.data import data
from lightning_avatars.tools.edit import edit
from lightning_avatars.tools.evaluate import evaluate
from lightning_avatars.tools.explore import explore
from lightning_avatars.tools.export import export
from lightning_avatars.tools.sample import sample
from lightning_avatars.tools.translate import translate
from lightning_avatars.tools.weights import weights
from lightning_avatars.warm_start import freeze, start_from

TOOLS = {tool.__name__: tool for tool in (sample, explore, edit, translate, evaluate, compare, export, data, weights)}

TRAINER = {  # what the clocks and the endless sampler need; choices are in the configs
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "val_check_interval": sys.maxsize,  # set by callbacks.run
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}


class SaveConfig(SaveConfigCallback):
    """Write the whole configuration of a training run beside its checkpoints and to the dashboard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer._default_root_dir = trainer.strategy.broadcast(trainer.default_root_dir)  # others could not know it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:  # and not before: what can't go on from its checkpoint must leave no trace
            return
        path = Path(trainer.default_root_dir) / "config.yaml"
        kept = self.config.clone()
        kept.ckpt_path, kept.resume = None, "never"  # a template must not go on from this run
        temporary = path.with_suffix(".part.yaml")
        self.parser.save(kept, temporary, skip_none=False, overwrite=True, multifile=False)
        put_in_place(temporary, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(yaml.safe_load(path.read_text()))


class FaceCLI(LightningCLI):
    """LightningCLI with networks that match the data, a folder for each run and clocks in images."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Run, "run")
        parser.add_lightning_class_args(Preview, "preview")
        parser.add_lightning_class_args(SampleQuality, "quality")
        parser.add_lightning_class_args(ReconstructionQuality, "reconstruction")
        parser.add_lightning_class_args(LikelihoodQuality, "likelihood")
        parser.add_lightning_class_args(Guard, "guard")
        parser.add_argument(
            "--resume",
            type=Literal["never", "auto"],
            default="never",
            help="auto: go on from the last good checkpoint of this experiment with this seed, model and data, if any",
        )
        parser.add_argument(
            "--init_from",
            type=Path | None,
            default=None,
            help="checkpoint or exported weights that the networks start from; clocks start at zero",
        )
        parser.add_argument(
            "--freeze",
            type=list[str] | None,
            default=None,
            help="parts that are not trained, such as discriminator.stages.0",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        arguments = shipped.expand(list(sys.argv[1:] if args is None else args))
        self.config = parser.parse_args(with_saved_config(arguments))

    def _parse_ckpt_path(self) -> None:
        """Leave the command line as it is: what a checkpoint was made with must not override it."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check_precision(config.trainer.precision)
        match_seed(config)
        if config.weights_only is None:
            config.weights_only = True  # a checkpoint may be a stranger's: never unpickle code
        match_data(config.model, config.data)
        say_dropped_terms(config)
        self.experiment = experiment_name(config)
        root = config.trainer.default_root_dir
        asked = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self.subcommand]
        asked = asked if self.subcommand == "fit" else None
        found = continued(config.ckpt_path, config.resume, self.experiment, root, asked)
        self.folder = Path(root) if root else run_folder(self.experiment, found)
        config.trainer.default_root_dir = None  # a run's folder may move: its own configuration must not name it
        if not rank():
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.subcommand == "fit":
                hold(self.folder)
        if self.subcommand == "fit" and (root or found):  # what another process saved until it let go counts too
            there = root or str(Path(found).parent.parent)
            found = continued(config.ckpt_path, config.resume, self.experiment, there, asked)
        config.ckpt_path = found

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        given = self.config[self.subcommand].trainer
        kwargs["default_root_dir"] = self.folder
        if given.logger is None:
            anew = self.config[self.subcommand].get("ckpt_path") is None
            loggers = default_loggers(self.folder, self.experiment, anew) if self.subcommand == "fit" else False
            kwargs["logger"] = loggers
        takes_turns = not self.model.automatic_optimization
        count = processes(given.accelerator, given.devices, given.num_nodes)
        if given.strategy == "auto" and takes_turns and count > 1:
            kwargs["strategy"] = PhaseDDP()
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        plain = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self.subcommand]
        self.model.config = {"model": plain["model"], "data": plain["data"]}
        config = self.config[self.subcommand]
        if config.init_from is not None and config.ckpt_path is None:
            start_from(self.model, config.init_from)
        freeze(self.model, config.freeze or [])


def option(args: list[str], name: str) -> str | None:
    """Look up the value of ``--name value`` or ``--name=value``."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == name:
            return following
        if arg.startswith(f"{name}="):
            return arg.removeprefix(f"{name}=")
    return None


def with_saved_config(args: list[str]) -> list[str]:
    """Add the ``config.yaml`` of the checkpoint's run where ``--ckpt_path`` comes without a model."""
    if not args or args[0] not in FaceCLI.subcommands():
        return args
    checkpoint = option(args, "--ckpt_path")
    named = any(option(args, name) is not None for name in ("-c", "--config", "--model"))
    if checkpoint is None or named:
        return args
    if checkpoint == "last":
        raise ValueError("--ckpt_path last needs to know of which experiment: give its -c, as it was started with")
    folder = run_of(Path(checkpoint))
    if folder is None:
        raise FileNotFoundError(f"no config.yaml beside {checkpoint} or in the folder above it: give one with -c")
    return [args[0], "--config", str(folder / "config.yaml"), *args[1:]]


def processes(accelerator: str, devices: list[int] | str | int, nodes: int = 1) -> int:
    """Count the processes that a Trainer with these arguments will use."""
    tasks = os.environ["SLURM_NTASKS"] if SLURMEnvironment.detect() else 1
    launched = int(os.environ.get("WORLD_SIZE", tasks))
    if isinstance(devices, list):
        each = len(devices)
    elif str(devices) in ("auto", "-1"):
        each = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 1
    else:
        each = int(devices) if str(devices).isdigit() else str(devices).count(",") + 1
    return max(launched, nodes * each)


def run_tool(name: str, args: list[str]) -> None:
    """Call a tool with arguments from its signature; ``-c`` names the data, and so may a plain folder or zip."""
    tool = TOOLS[name]
    parser = ArgumentParser(prog=f"lightning-avatars {name}", description=summary(tool), parser_mode="omegaconf")
    parameter = inspect.signature(tool).parameters.get("data")
    needs_data = parameter is not None and parameter.default is inspect.Parameter.empty
    if needs_data and args and not args[0].startswith("-"):
        args = ["--data", str(shipped.find("folder64", "data")), "--data.dataset.path", *args]
    if parameter is not None:
        args = shipped.expand(["--data" if arg in ("-c", "--config") else arg for arg in args])
    asked = any(arg.partition("=")[0].startswith("--data") for arg in args)
    if needs_data or (parameter is not None and (asked or "--help" in args)):
        parser.add_class_arguments(FaceData, "data")
    parser.add_function_arguments(tool, as_group=False, as_positional=True, skip={"data"} if parameter else set())
    config = parser.instantiate_classes(parser.parse_args(args))
    tool(**vars(config))


def summary(tool: Callable[..., None]) -> str:
    """First line of a tool's description."""
    return (tool.__doc__ or "").splitlines()[0]


def message(error: BaseException | None) -> str | None:
    """What this package said to a person by raising an error, or one behind it; None where it is a fault to trace."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        said = frames and Path(frames[-1].filename).is_relative_to(shipped.PACKAGE)
        if said and str(frames[-1].line).startswith("raise "):  # and not an error of what is written in C
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def quiet() -> None:
    """Leave out what Lightning says of every run and what is so by design here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    known = ("Found .* module.* in eval mode", "Couldn't infer the batch indices", ".*isinstance.treespec")
    for message in (*known, "You have overridden `on_before_batch_transfer` in `LightningModule`"):
        warnings.filterwarnings("ignore", message)


def main(args: list[str] | None = None) -> None:
    """Run the command line; what is wrong with its arguments is said in a line, with exit status 2."""
    live_with_launcher()
    quiet()
    arguments = sys.argv[1:] if args is None else args
    try:
        commands = [*FaceCLI.subcommands(), *TOOLS]
        if not arguments or (arguments[0] not in commands and not arguments[0].startswith("-")):
            said = repr(arguments[0]) if arguments else "nothing"
            raise ValueError(f"the first word is one of {', '.join(commands)}; got {said}. --help explains them")
        run_tool(arguments[0], arguments[1:]) if arguments[0] in TOOLS else run_with_rollbacks(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        said = message(error)
        if said is None:
            raise
        discard_empty_run()
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        release()


def run_with_rollbacks(args: list[str]) -> None:
    """Run the trainer, and again from its last good checkpoint where the guard asks for it."""
    while True:
        try:
            return run_trainer(args)
        except Rollback as back:
            rank_zero_warn(f"{back}: going back to {back.checkpoint}, and on with seed {back.seed}")
            args = [*args, "--ckpt_path", str(back.checkpoint)]


def run_trainer(args: list[str]) -> None:
    """Fit, validate, test or predict."""
    tools = "; ".join(f"{name}: {summary(tool)}" for name, tool in TOOLS.items())
    FaceCLI(
        FaceModule,
        FaceData,
        save_config_callback=SaveConfig,
        trainer_defaults=TRAINER | {"callbacks": [ImageProgress(), Predictions(), RecognitionQuality()]},
        seed_everything_default=0,
        parser_kwargs={
            "parser_mode": "omegaconf",
            "description": "Train, score and sample generative models of faces: fit -c <model>_<data>, for one.",
            "epilog": f"tools, each with a --help of its own: {tools}",
        },
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )
