"""The noise that samples start from, drawn on the CPU, where it is the same for every device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from epg.diffusion.seeds import generator_for
from epg.machine import available_cores

_PIECE = 1 << 19  # numbers that a thread draws at a time: 4 ms, of which the hand-over is little


class SeriesNoise:
    """Standard normal noise of a series of samples, a seed for each of them.

    While a GPU works on some samples, threads draw the noise of those that follow: a model of one
    step would wait for it longer than for its network.
    """

    def __init__(self, seed: int, shape: Sequence[int], count: int, device: torch.device) -> None:
        """Bind to a series of `count` samples of a shape [C, H, W] that are made on a device."""
        self._seed, self._shape, self._count, self._device = seed, tuple(shape), count, device
        self._pool = ThreadPoolExecutor(available_cores())
        self._ahead: dict[tuple[int, int], tuple[Tensor, list[Future[None]]]] = {}

    def take(self, first: int, count: int, step: int = 0) -> Tensor:
        """Return the noise [N, C, H, W] of samples `first` ... `first + count - 1`, on the device.

        Args:
            first: number of the first of them in the series.
            count: N.
            step: which noise of these samples; each is another.
        """
        asked_before = self._ahead.pop((first, count), None) if step == 0 else None
        drawn, drawing = asked_before or self._begin(first, count, step)
        for one in drawing:
            one.result()
        following = min(count, self._count - first - count)
        if self._device.type == "cuda" and step == 0 and following > 0:
            self._ahead = {(first + count, following): self._begin(first + count, following, 0)}
        return drawn.to(self._device, non_blocking=True)

    def _begin(self, first: int, count: int, step: int) -> tuple[Tensor, list[Future[None]]]:
        """Start to draw; returns what is filled, and by what."""
        drawn = torch.empty((count, *self._shape), pin_memory=self._device.type == "cuda")
        some = max(1, _PIECE // math.prod(self._shape))
        return drawn, [
            self._pool.submit(self._draw, drawn[begin : begin + some], first + begin, step)
            for begin in range(0, count, some)
        ]

    @torch.inference_mode()  # as who samples, also in another thread
    def _draw(self, places: Tensor, first: int, step: int) -> None:
        for i, place in enumerate(places):
            generator = generator_for(self._seed, "sample", first + i, step)
            torch.randn(self._shape, generator=generator, out=place)
