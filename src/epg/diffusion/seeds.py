"""Random numbers as pure functions of where they are used: nothing hidden must be saved.

Those of a training step belong to samples: to (seed, stage, step, position in the global batch),
so that the number of processes, and which of them holds a sample, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

#: Samples that share one generator: seeding one for each would cost more than the numbers do.
BLOCK = 32


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by `derive_seed(*parts)`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(*parts))
    return generator


class SampleNoise:
    """The random numbers of one step for the samples `first` ... `first + count - 1` of its batch.

    A sample's numbers under a name are the same in every batch that holds it: each block of
    `BLOCK` positions of the global batch has a generator of its own, is drawn whole, and is cut.
    On another kind of device they are other numbers.
    """

    def __init__(
        self,
        seed: int,
        stage: str,
        step: int,
        first: int,
        count: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Bind to a step and to `count` samples from the position `first` of its global batch."""
        self.first, self.count = first, count
        self._key = (seed, stage, step)
        self._device = torch.device(device)

    def normal(
        self, name: str, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return standard normal numbers [count, *shape]; the same name gives the same ones."""
        blocks, kept = self._blocks(name, shape, dtype)
        for block, generator in blocks:
            block.normal_(generator=generator)
        return kept

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Return numbers in [0, 1), float32 [count, *shape]; the same name, the same ones."""
        blocks, kept = self._blocks(name, shape, torch.float32)
        for block, generator in blocks:
            block.uniform_(generator=generator)
        return kept

    def _blocks(
        self, name: str, shape: Sequence[int], dtype: torch.dtype
    ) -> tuple[list[tuple[Tensor, torch.Generator]], Tensor]:
        """Return the blocks to fill, each with its generator, and the part of them that counts."""
        begin = self.first // BLOCK
        end = -(-(self.first + self.count) // BLOCK)
        drawn = torch.empty(((end - begin) * BLOCK, *shape), dtype=dtype, device=self._device)
        blocks = [
            (part, generator_for(*self._key, name, begin + i, device=self._device))
            for i, part in enumerate(drawn.split(BLOCK))
        ]
        offset = self.first - begin * BLOCK
        return blocks, drawn[offset : offset + self.count]
