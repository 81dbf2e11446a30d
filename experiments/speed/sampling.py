"""How fast a transformer draws codes when it keeps what it has seen, and when it looks at all of it anew.

python -m experiments.speed.sampling

Both draw the same sequences from the same random numbers, with the same network, token by token, and take turns.
Without what is kept, the network sees the sequence so far for each token; of its last place alone the next one is
foretold. ``less work`` compares the seconds of all cores together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.networks.sequence import TokenSampling
from lightning_avatars.networks.transformer import Transformer

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "sampling.json", HERE / "README.md"

WORDS = 1024
SIZES = {
    "vqgan_prior": {"width": 128, "layers": 4, "heads": 4},
    "wider": {"width": 192, "layers": 4, "heads": 6},
    "large": {"width": 512, "layers": 12, "heads": 8},
}


def sampling(
    tokens: int = 256,
    sizes: list[str] = ["vqgan_prior", "wider"],  # noqa: B006 - never changed
    batches: list[int] = [1, 16],  # noqa: B006
    rounds: int = 3,
    device: str = "auto",
    write: bool = True,
) -> None:
    """Measure seconds of both; write ``sampling.json`` and the page's table.

    Args:
        tokens: Tokens of a sequence.
        sizes: Of the network: that of ``vqgan_prior``, ``wider`` or ``large``.
        batches: Sequences that are drawn at a time.
        rounds: Measurements of each, of which the median is taken.
        device: ``cpu``, ``cuda`` or ``auto``.
        write: Whether to write what was found; else it is only shown.
    """
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    rows = [compared(size, tokens, batch, rounds, chosen) for size in sizes for batch in batches]
    found = {
        "hardware": hardware(chosen), "torch": torch.__version__, "words": WORDS, "tokens": tokens, "rounds": rounds,
        "rows": rows,
    }  # fmt: skip
    if write:
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[chosen.type] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        fill(PAGE, "sampling", "\n".join(line for one in known.values() for line in table(one)))


def compared(size: str, tokens: int, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Let both draw, by turns; say how much faster one is and in how many tokens they agree."""
    torch.manual_seed(0)
    network = Transformer(WORDS, tokens, **SIZES[size]).to(device).eval()
    for p in network.parameters():  # a new network foretells nothing: all tokens would be drawn whatever came before
        torch.nn.init.normal_(p, std=0.1)
    uniforms, how = torch.rand(batch, tokens, dtype=torch.float64).to(device), TokenSampling()
    ways: dict[str, Callable[[], Tensor]] = {
        "kept": lambda: how.draw(network, uniforms),
        "anew": lambda: anew(how, network, uniforms),
    }
    agree = float((ways["kept"]() == ways["anew"]()).double().mean())  # and the first turns don't count
    turns = [{name: seconds(way, device) for name, way in ways.items()} for _ in range(rounds)]
    row = {
        "size": size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": batch,
        "seconds": {name: round(median(turn[name][0] for turn in turns), 3) for name in ways},
        "faster": round(median(turn["anew"][0] / turn["kept"][0] for turn in turns), 1),
        "less_work": round(median(turn["anew"][1] / turn["kept"][1] for turn in turns), 1),
        "agree": agree,
    }
    print(json.dumps(row), flush=True)
    return row


@torch.inference_mode()
def anew(how: TokenSampling, network: Transformer, uniforms: Tensor) -> Tensor:
    """Draw tokens with the whole sequence so far seen again for each."""
    tokens = torch.full((len(uniforms), 1), network.vocabulary, device=uniforms.device)
    for uniform in uniforms[..., None].unbind(1):
        tokens = torch.cat([tokens, how.choose(network(tokens)[0][:, -1], uniform)], 1)
    return tokens[:, 1:]


def seconds(way: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """Time one drawing: by the clock, and what all cores have worked."""
    started, worked = perf_counter(), process_time()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started, process_time() - worked


def table(found: dict[str, Any]) -> list[str]:
    """Write what was found on one kind of device."""
    lines = [
        f"## Drawing {found['tokens']} tokens of {found['words']:,} words on {found['hardware']}, torch "
        f"{found['torch']}, medians of {found['rounds']}",
        "",
        "| network | parameters | sequences | kept | anew | faster | less work | tokens that agree |",
        "|---" * 8 + "|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['size']} | {row['parameters'] / 1e6:.1f} M | {row['batch']} | {row['seconds']['kept']:.2f} s "
            f"| {row['seconds']['anew']:.2f} s | **{row['faster']:.1f}** | {row['less_work']:.1f} "
            f"| {row['agree']:.2%} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    auto_cli(sampling)
