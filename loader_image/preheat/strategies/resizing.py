"""Fills tensors from those of another size, as `bridging` has decided; one tensor of the checkpoint at a time.

Every process computes the whole of an interpolated tensor, which is small, and takes its own part of it. Of one that is
overlapped it reads what it holds and nothing else, straight into its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch

from preheat.strategies.bridging import Bridge, Kernel, Overlap, Resampling
from preheat.strategies.filling.moves import part_of
from preheat.strategies.filling.shards import Target
from preheat.strategies.filling.slices import Runs, shape_of
from preheat.strategies.weights import Weights


def fill_bridged(weights: Weights, targets: Mapping[str, Target], bridges: Mapping[str, Bridge]) -> int:
    """Fill all `targets`, those in `bridges` as these say, and return the bytes moved."""
    computed = {name: how for name in targets if isinstance(how := bridges.get(name), Resampling | Kernel)}
    size = weights.fill({n: _clipped(t, bridges.get(n)) for n, t in targets.items() if n not in computed})
    for name, how in computed.items():
        values, target = weights.read(name), targets[name]
        resized = resample(values, how) if isinstance(how, Resampling) else refit(values, how)
        with torch.no_grad():
            target.tensor.copy_(part_of(resized, target.region))
        size += values.numel() * values.element_size()
    return size


def resample(values: torch.Tensor, how: Resampling) -> torch.Tensor:
    """The values of the other grid, in float32."""
    height, width = how.old
    entries = values.float().reshape(*how.source[: how.axis], -1, *how.source[how.axis + how.axes :])
    before, positions, after = torch.tensor_split(entries, (how.before, how.before + height * width), how.axis)
    channels = positions.movedim(how.axis, -1)
    grid = torch.nn.functional.interpolate(
        channels.reshape(1, -1, height, width), how.new, mode="bicubic", align_corners=False, antialias=how.smooth
    )
    positions = grid.reshape(*channels.shape[:-1], -1).movedim(-1, how.axis)
    return torch.cat([before, positions, after], how.axis).reshape(how.target)


def refit(values: torch.Tensor, how: Kernel) -> torch.Tensor:
    """The other kernel, in float64: exact where patches grow, the nearest in the sense of least squares elsewhere."""
    old, new = how.source[2:], how.target[2:]
    pixels = torch.eye(prod(old), dtype=torch.float64, device=values.device).view(-1, 1, *old)
    seen = torch.nn.functional.interpolate(pixels, new, mode="bicubic", align_corners=False, antialias=True)
    answers: torch.Tensor = torch.linalg.pinv(seen.flatten(1))
    return (values.double().flatten(2) @ answers.T).view(how.target)


def _clipped(target: Target, how: Bridge | None) -> Target:
    """The part of `target` that an overlap fills: what this process holds of an axis begins with it."""
    if not isinstance(how, Overlap):
        return target
    held = target.region or tuple(((0, length),) for length in how.target)
    region = tuple(_below(runs, length) for runs, length in zip(held, how.shape, strict=True))
    part = tuple(slice(0, length) for length in shape_of(region))
    return Target(target.tensor.detach()[part], region)


def _below(runs: Runs, limit: int) -> Runs:
    return tuple((start, min(stop, limit)) for start, stop in runs if start < limit)
