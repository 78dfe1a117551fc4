"""The processes that train together, as one of them sees them: ranks, and their collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from epg.diffusion.seeds import SampleNoise

_CPU = torch.device("cpu")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _alone(module: nn.Module) -> nn.Module:
    return module


def _decided(value: int) -> int:
    return value


def _shared(tensors: Iterable[Tensor]) -> None:
    del tensors


@dataclass(frozen=True)
class World:
    """Who this process is among those that share each global batch.

    Attributes:
        rank: this process, 0 ... size - 1; rank r holds the r-th slice of every batch.
        size: number of processes.
        device: where this process computes.
        gather: [N, ...] of every rank -> [size * N, ...] in rank order; no gradient flows back.
        reduce: a tensor of every rank -> its mean over the ranks; no gradient flows back.
        total: a tensor of every rank -> its sum; gradients flow back to every rank.
        decide: an integer of the first rank -> the same on all; the device is not waited for.
        share: overwrites tensors by those of the first rank.
        parallel: a module whose forward gives losses -> the same, its gradients averaged over
            the ranks while the backward pass runs.
    """

    rank: int
    size: int
    device: torch.device = _CPU
    gather: Callable[[Tensor], Tensor] = _same
    reduce: Callable[[Tensor], Tensor] = _same
    total: Callable[[Tensor], Tensor] = _same
    decide: Callable[[int], int] = _decided
    share: Callable[[Iterable[Tensor]], None] = _shared
    parallel: Callable[[nn.Module], nn.Module] = _alone

    @classmethod
    def single(cls, device: torch.device | None = None) -> World:
        """One process alone."""
        return cls(rank=0, size=1, device=device or _CPU)

    def noise(
        self, seed: int, stage: str, step: int, local: Tensor, part: int = 0, parts: int = 1
    ) -> SampleNoise:
        """Return the random numbers of a step for a part of this process's slice.

        Args:
            seed: the recipe's.
            stage: whose numbers.
            step: 0-based.
            local: images of the part, [N, ...], on the training device.
            part: which of `parts` equal ones of the slice it is.
            parts: how many parts a slice has.
        """
        count = len(local)
        first = (self.rank * parts + part) * count
        return SampleNoise(seed, stage, step, first, count, local.device)
