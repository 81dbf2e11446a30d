"""The tables of the page, from the results."""

from __future__ import annotations

from experiments.conformance.distances import PLAIN


def width(row: dict) -> int:
    """Read the width of the images of a row."""
    return int(row["size"].split(" ")[0])


def why(row: dict) -> str:
    """Say what a tool does otherwise at a size."""
    resize = {
        "torchmetrics": "half-pixel centres" + (", antialiased" if width(row) > 299 else ""),
        "pytorch-fid": "half-pixel centres",
        "clean-fid": "bicubic, half-pixel centres" + (", antialiased" if width(row) > 299 else ""),
    }
    if row["tool"] in (PLAIN, "torch-fidelity"):
        return {PLAIN: "our features", "torch-fidelity": "order of float32 sums"}[row["tool"]]
    reasons = [resize[row["tool"]]] if width(row) != 299 else []
    reasons += ["255 becomes 1, not 127/128"] if row["tool"] == "pytorch-fid" else []
    return "; ".join(reasons) or "nothing to resize"


def relative(value: float | None, ours: float) -> str:
    """Show how much more a value is than ours."""
    return "" if value is None else f"{value / ours - 1:+.1e}"


def shown(value: float | None) -> str:
    """Show a value, or that the tool has none."""
    return "none" if value is None else f"{value:.6g}"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Make a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(results: dict) -> dict[str, str]:
    """Write every part of the page."""
    whole, equal = results["distributions"], results["equal_features"]
    return {
        "distributions": grid(
            ["size", "tool", "N", "FID", "ours", "relative", "KID", "ours", "relative", "features", "why"],
            [[
                r["size"], r["tool"], str(r["images"]), shown(r["fid"]), shown(r["our_fid"]),
                relative(r["fid"], r["our_fid"]), shown(r["kid"]), shown(r["our_kid"]),
                relative(r["kid"], r["our_kid"]), f"{r['features']:.1e}", why(r),
            ] for r in sorted(whole, key=width)],
        ),
        "equal features": grid(
            ["functions of", "FID", "relative", "KID", "relative"],
            [[
                r["tool"], f"{r['fid']:.9g}", relative(r["fid"], equal[-1]["fid"]), shown(r["kid"]),
                relative(r["kid"], equal[-1]["kid"]),
            ] for r in equal],
        ),
        "twins": grid(
            ["tool", "is", "size", "features differ by"],
            [[r["tool"], r["twin"], r["size"], f"{r['features']:.1e}"] for r in results["twins"]],
        ),
        "documented": grid(["", "FID(64)"], [[k, f"{v:.4f}"] for k, v in results["documented"].items()]),
        "pairwise": grid(
            ["score", "size", "tool", "its mean", "our mean", "largest difference of a pair"],
            [[
                r["score"], r["size"], r["tool"], f"{r['theirs']:.7g}", f"{r['ours']:.7g}", f"{r['largest']:.1e}"
            ] for r in sorted(results["pairwise"], key=lambda row: (row["score"], width(row)))],
        ),
        "published": grid(
            ["picture", "published", "ours"],
            [[r["picture"], f"{r['published']:.3f}", f"{r['ours']:.4f}"] for r in results["published_lpips"]],
        ) if results["published_lpips"] else "Not reproduced in this run: the three pictures were not at hand.",
        "neighbours": grid(
            ["score", "size", "torch-fidelity", "ours"],
            [[r["score"], r["size"], shown(r["theirs"]), shown(r["ours"])] for r in results["neighbours"]],
        ),
        "inception score": grid(
            ["", "torch-fidelity", "ours"],
            [[k, f"{r['theirs']:.10g}", f"{r['ours']:.10g}"] for k, r in results["inception_score"].items()],
        ),
        "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + f"; {results['hardware']}.",
    }  # fmt: skip
