"""Which images are near which: precision, recall, density, coverage and copies, from feature vectors.

Inner products are made in float64, tile by tile, each once for both the kernel's sums and the distances; no N x M
matrix is kept. Rows are shared by the processes, which must all hold all features and end with the same numbers.
Features must be finite.

A ball is closed: an image at exactly the radius is in it (Kynkäänniemi et al. 2019), and what differs by less than
rounding is at the same distance. It matters only where images are equal: among six equal real ones the radius is 0, and
a copy of them counts as inside, which the strict ``<`` of the published code of density and coverage denies. A set
against its own copy has a density of 1.2, and 1 with ``<``, as each ball holds its centre and 5 others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_avatars.metrics.intervals import block_counts, block_slices, blocks_of, without_each
from lightning_avatars.metrics.kernels import Kernel
from lightning_avatars.metrics.processes import add_up, exact, shares

PRECISION, DENSITY = 3, 5  # which nearest image a ball reaches to: of precision and recall, of density and coverage
ROWS, COLUMNS = 512, 4096  # of a tile: 16 MB, which a cache holds
TIE = 1e-12  # of the squared norms: rounding of a squared distance


class Inner(NamedTuple):
    """A set of images compared with itself."""

    radii: Tensor  # N x 2, distance to the 3rd and the 5th nearest other image; nan where there are too few
    kernel: Tensor  # B x B, sums over pairs of different images, by their blocks


class Outer(NamedTuple):
    """Generated images, in blocks, compared with real ones."""

    counts: Tensor  # B, generated images
    kernel: Tensor  # B, sums over pairs
    inside: Tensor  # B, generated images within the 3-ball of a real one
    density: Tensor  # B, sums over generated images of the real 5-balls around them
    recalled: Tensor  # M x B, whether the 3-ball of a generated image of the block holds the real one
    covered: Tensor  # M x B, whether the real 5-ball holds a generated image of the block


class Copies(NamedTuple):
    """How much of what was generated are copies of training images."""

    value: Tensor  # estimated share of copies
    leave_one_out: Tensor  # B, without each block
    distance: Tensor  # N, to the nearest training image
    train_index: Tensor  # N, of the nearest training image


def inner(features: Tensor, kernel: Kernel, blocks: int = 10) -> Inner:
    """Compare the images of a set with each other.

    Args:
        features: N x D, in the order of the images.
        kernel: Of the distance in a kernel's mean.
        blocks: Blocks of the jackknife.
    """
    norms = squared_norms(features)
    block = blocks_of(len(features), blocks).to(norms.device)
    size = min(blocks, len(features))
    radii, sums = norms.new_zeros(len(features), 2), norms.new_zeros(size, size)
    for number, rows in shared_rows(len(features), blocks):
        nearest = norms.new_full((rows.stop - rows.start, DENSITY), -torch.inf)
        for columns, products in tiles(features[rows], features):
            values = kernel(products, norms[rows], norms[columns], features.shape[1])
            themselves(values, rows, columns).zero_()
            sums[number].index_add_(0, block[columns], values.sum(0))
            near = nearness(products, norms[rows], norms[columns])
            themselves(near, rows, columns).fill_(-torch.inf)
            found = near.topk(min(DENSITY, near.shape[1])).values
            nearest = torch.cat([nearest, found], 1).topk(DENSITY).values
        radii[rows] = nearest[:, [PRECISION - 1, DENSITY - 1]].mul(-2).clamp(min=0).sqrt()
    add_up(radii, sums)
    return Inner(radii.masked_fill(radii.isinf(), torch.nan), sums)


def outer(
    samples: Tensor, reals: Tensor, inner_samples: Inner, inner_reals: Inner, kernel: Kernel, blocks: int = 10
) -> Outer:
    """Compare generated images with real ones.

    Args:
        samples: N x D, in the order of the images.
        reals: M x D.
        inner_samples: ``inner`` of the generated images.
        inner_reals: ``inner`` of the real images.
        kernel: Of the distance in a kernel's mean.
        blocks: Blocks of the jackknife, over the generated images.
    """
    norms, real_norms = squared_norms(samples), squared_norms(reals)
    device, counts = norms.device, block_counts(len(samples), blocks).to(norms.device)
    sample_reach = reach(inner_samples.radii.to(device), norms)[:, :1]
    third, fifth = reach(inner_reals.radii.to(device), real_norms).unbind(1)
    sums, inside, density = (torch.zeros_like(counts) for _ in range(3))
    recalled, covered = (torch.zeros(len(counts), len(reals), dtype=torch.bool, device=device) for _ in range(2))
    for block, rows in shared_rows(len(samples), blocks):
        within = torch.zeros(rows.stop - rows.start, dtype=torch.bool, device=device)
        for columns, products in tiles(samples[rows], reals):
            sums[block] += kernel(products, norms[rows], real_norms[columns], samples.shape[1]).sum()
            near = nearness(products, norms[rows], real_norms[columns])
            within |= (near >= third[columns]).any(1)
            dense = near >= fifth[columns]
            density[block] += dense.sum()
            covered[block, columns] |= dense.any(0)
            recalled[block, columns] |= (near >= sample_reach[rows]).any(0)
        inside[block] += within.sum()
    found = recalled.T.int().contiguous(), covered.T.int().contiguous()
    add_up(sums, inside, density, *found)
    return Outer(counts, sums, inside, density, *(times > 0 for times in found))


def precision_recall_density_coverage(outer: Outer) -> dict[str, tuple[Tensor, Tensor]]:
    """Four scores and their values without each block, B.

    - ``precision``: share of generated images within the ball of a real one that reaches to its 3rd nearest other;
      ``recall``: share of real images within such a ball of a generated one (Kynkäänniemi et al. 2019, Eq. 2).
    - ``density``: how many real balls, which reach to the 5th nearest, a generated image lies in, over 5; 1 in the mean
      where the distributions are one; ``coverage``: share of those balls that hold a generated image
      (Naeem et al. 2020).

    Where a set has too few images for its balls, the score is nan. Without a block, recall keeps the balls of all
    generated images: only their centres are left out. Against the spread over repeated samples of Gaussians, the
    interval is then as near as with balls measured anew, and costs nothing.
    """
    count, reals = outer.counts.sum(), len(outer.recalled)
    rest = count - outer.counts
    recalled, covered = (kept.sum(1, keepdim=True) - kept.int() for kept in (outer.recalled, outer.covered))
    scores = {
        "precision": (outer.inside.sum() / count, without_each(outer.inside) / rest),
        "recall": (outer.recalled.any(1).double().mean(), (recalled > 0).double().mean(0)),
        "density": (outer.density.sum() / count / DENSITY, without_each(outer.density) / rest / DENSITY),
        "coverage": (outer.covered.any(1).double().mean(), (covered > 0).double().mean(0)),
    }
    enough = {
        "precision": reals > PRECISION,
        "recall": count > PRECISION,
        "density": reals > DENSITY,
        "coverage": reals > DENSITY,
    }
    unknown = outer.inside.new_tensor(torch.nan), torch.full_like(outer.inside, torch.nan)
    return {kind: both if enough[kind] else unknown for kind, both in scores.items()}


def nearest(queries: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each query to the nearest of others, in float64, and its index; one of them where several are.

    Args:
        queries: N x D.
        others: M x D.
    """
    if not len(others):
        raise ValueError("the nearest of no images was asked for: give at least one")
    norms = squared_norms(others)
    distance = norms.new_zeros(len(queries))
    index = torch.zeros(len(queries), dtype=torch.int64, device=norms.device)
    for rows in shares(len(queries), ROWS):
        best, at = norms.new_full((rows.stop - rows.start,), -torch.inf), index[rows]
        for columns, products in tiles(queries[rows], others):
            value, place = products.sub_(norms[columns] / 2).max(1)
            at[:] = torch.where(value > best, place + columns.start, at)
            best = torch.maximum(value, best)
        distance[rows] = (exactly(queries[rows]) - exactly(others[at.to(others.device)])).norm(dim=1)
    add_up(distance, index)
    return distance, index


def copied(samples: Tensor, train: Tensor, held_out: Tensor, blocks: int = 10) -> Copies:
    """Estimate the share of generated images that are copies of training images.

    The nearest real image of a sample is a training image or one held out. A generator that remembers none has no
    reason to be nearer to one kind: with T training images and H held out, drawn alike, a share ``H / (T + H)`` of the
    nearest is then held out. Each copy lowers it, so that ``1 - share * (T + H) / H`` is 0 in the mean without copies,
    and 1 where all are. Noise may take it below 0, the more so the smaller H is. An image in both sets counts as half.

    Args:
        samples: N x D, in the order of the images.
        train: T x D.
        held_out: H x D, never seen in training.
        blocks: Blocks of the jackknife.
    """
    (distance, index), (apart, _) = nearest(samples, train), nearest(samples, held_out)
    held = (apart < distance).double() + (apart == distance).double() / 2
    counts = block_counts(len(samples), blocks).to(held)
    sums = torch.stack([held[part].sum() for part in block_slices(len(samples), blocks)])
    odds = (len(train) + len(held_out)) / len(held_out)
    value, less = 1 - odds * sums.sum() / counts.sum(), 1 - odds * without_each(sums) / without_each(counts)
    return Copies(value, less, distance, index)


def exactly(features: Tensor) -> Tensor:
    """Features in float64, where there is such a thing."""
    return features.to(exact(features.device)).double()


def squared_norms(features: Tensor) -> Tensor:
    """Squared norms in float64, N."""
    return torch.cat([exactly(part).square().sum(1) for part in torch.split(features, COLUMNS)])


def shared_rows(count: int, blocks: int) -> Iterator[tuple[int, slice]]:
    """Yield this process's pieces of rows, each within one block, and the block."""
    pieces = [
        (number, slice(first, min(first + ROWS, block.stop)))
        for number, block in enumerate(block_slices(count, blocks))
        for first in range(block.start, block.stop, ROWS)
    ]
    for share in shares(len(pieces), 1):
        yield from pieces[share]


def tiles(rows: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of others and the inner products of rows with them."""
    rows = exactly(rows)
    for first in range(0, len(others), COLUMNS):
        columns = slice(first, min(first + COLUMNS, len(others)))
        yield columns, rows @ exactly(others[columns]).T


def nearness(products: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Turn inner products, in place, into minus half the squared distances."""
    return products.sub_(norms_a[:, None] / 2).sub_(norms_b / 2)


def reach(radii: Tensor, norms: Tensor) -> Tensor:
    """Least nearness to be within balls, N x 2: minus half the squared radius, and rounding."""
    squared = radii.square()
    return -(squared + TIE * (squared + norms[:, None])) / 2


def themselves(tile: Tensor, rows: slice, columns: slice) -> Tensor:
    """View of what stands in a tile for pairs of an image and itself."""
    first = max(rows.start, columns.start)
    stop = max(first, min(rows.stop, columns.stop))
    return tile[first - rows.start : stop - rows.start, first - columns.start : stop - columns.start].diagonal()
