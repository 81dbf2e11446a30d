"""Training without the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.objectives.adversarial import NonSaturating
from tests.conf.tiny import TinyDiscriminator, TinyFaces, TinyGenerator

TINY = str(Path(__file__).parent / "tiny.yaml")
STYLES = {  # a generator with a mapping, for the command line
    "class_path": "lightning_avatars.networks.stylegan2.StyleGAN2Generator",
    "init_args": {"width": 4, "max_width": 8, "latent_dim": 8, "style_dim": 8},
}


def game(conditional: bool = False, normalized: bool = False, **arguments: Any) -> Adversarial:
    """Make a tiny game, the same weights every time."""
    torch.manual_seed(0)
    label_dim = 3 if conditional else 0
    arguments = {
        "generator": TinyGenerator(label_dim=label_dim, normalized=normalized),
        "discriminator": TinyDiscriminator(label_dim=label_dim, normalized=normalized),
        "objective": NonSaturating(),
        "generator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.0, 0.99)),
        "discriminator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.0, 0.99)),
        "average_half_life": 100,
    } | arguments
    return Adversarial(conditional=conditional, **arguments)


def fit(
    module: Adversarial,
    folder: Path,
    images: int = 40,
    ckpt_path: Path | None = None,
    batch_size: int = 8,
    data: FaceData | None = None,
    save_every: int = 16,
    **arguments: Any,
) -> Trainer:
    """Train a game, on tiny faces by default."""
    run = Run(images=images, validate_every=0, save_every=save_every)
    arguments = {
        "accelerator": "cpu", "devices": 1, "callbacks": [run], "enable_progress_bar": False, "log_every_n_steps": 1
    } | arguments  # fmt: skip
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=-1,
        logger=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        val_check_interval=1_000_000,
        num_sanity_val_steps=0,
        **arguments,
    )
    trainer.fit(module, data or FaceData(TinyFaces(), resolution=8, batch_size=batch_size), ckpt_path=ckpt_path)
    return trainer


def silent_trainer(folder: Path, **options: Any) -> Trainer:
    """Make a trainer of one epoch that writes and shows nothing."""
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def checkpoint_of(folder: Path, *arguments: str) -> Path:
    """Train a game on one batch of tiny faces through the command line; return its checkpoint."""
    quick = ["--run.images", "8", "--quality.enabled", "false", "--preview.every", "0"]
    main(
        ["fit", "-c", TINY, "--trainer.default_root_dir", str(folder), "--trainer.logger", "false", *quick, *arguments]
    )
    return folder / "checkpoints/images_000000008.ckpt"


def weights(module: Adversarial) -> torch.Tensor:
    """Flatten all parameters and buffers."""
    return torch.cat([t.flatten().double() for t in (*module.parameters(), *module.buffers())])
