"""The processes that train together, as one of them sees them: ranks, and two collectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from epg.diffusion.seeds import SampleNoise


@dataclass(frozen=True)
class World:
    """Who this process is among those that share each global batch.

    Attributes:
        rank: this process, 0 ... size - 1; rank r holds the r-th slice of every batch.
        size: number of processes.
        gather: [N, ...] of every rank -> [size * N, ...] in rank order; no gradient flows back.
        reduce: a tensor of every rank -> its mean over the ranks.
    """

    rank: int
    size: int
    gather: Callable[[Tensor], Tensor]
    reduce: Callable[[Tensor], Tensor]

    @classmethod
    def single(cls) -> World:
        """One process alone."""
        return cls(rank=0, size=1, gather=lambda tensor: tensor, reduce=lambda tensor: tensor)

    def noise(self, seed: int, stage: str, step: int, local: Tensor) -> SampleNoise:
        """Return the random numbers of a step for this process's slice, `local` [N, ...]."""
        count = len(local)
        return SampleNoise(seed, stage, step, self.rank * count, count, local.device)
