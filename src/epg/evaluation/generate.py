"""Images from a generator: sampling per objective, with seeds that belong to each sample.

Shape letters: N samples, H W pixels, C channels, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.config.sampling import SamplingConfig
from epg.data.augment import to_uint8, valid_range
from epg.diffusion.denoisers import Network, denoise_consistently, denoise_directly
from epg.diffusion.samplers import CountingDenoiser, Denoiser, Watcher, consistency, heun
from epg.errors import UserError
from epg.evaluation.sample_noise import SeriesNoise
from epg.model.device import prepare_device
from epg.model.encoder import NUM_PREFIX_TOKENS
from epg.model.files import LoadedGenerator
from epg.model.generator import Generator
from epg.model.precision import Precision
from epg.model.replay import Replayed

_WORTH_COMPILING = 1000  # images; compiling and recording take as long as hundreds of them
#: FLOPs of a pass that a GPU makes in about the time that its launches take, 10 ms. Larger ones
#: gain 2 % at most from a graph, which keeps several times the memory of a pass.
_WORTH_RECORDING = 4e12

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Samples:
    """Generated images and what they cost."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int64 [N]
    nfe: int  # evaluations of the network per image
    seconds: float  # of sampling alone

    @property
    def images_per_second(self) -> float:
        """Throughput of sampling."""
        return len(self.images) / max(self.seconds, 1e-9)


class GeneratedImages:
    """The images of a series, of which any span can be asked for, on the device.

    Args:
        loaded: the generator.
        labels: class of every image of the series, int64 [N], 0 ... number of classes - 1.
        seed: image i depends on (seed, i, its label) and on nothing else.
        batch_size: images at once.
        sampling: how; default: what the generator's file says.
        device: one that is prepared; default: the best that there is.

    Raises:
        UserError: a label that the model does not have, or sampling for the other objective.
    """

    def __init__(
        self,
        loaded: LoadedGenerator,
        labels: NDArray[np.int64],
        *,
        seed: int,
        batch_size: int,
        sampling: SamplingConfig | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.loaded = loaded
        self.labels = np.asarray(labels)
        self._batch_size = batch_size
        self._sampling = sampling or loaded.sampling
        _check(loaded, labels, self._sampling)
        self.device = prepare_device() if device is None else torch.device(device)
        loaded.generator.to(self.device)
        self._noise = _noise_of(loaded, seed, len(labels), self.device)
        self._classes = torch.from_numpy(self.labels).to(self.device)
        self._network = _network(loaded, self._sampling)
        full = Precision.full(self.device)
        if len(labels) >= _WORTH_COMPILING and full.compiles:
            full.compiled(loaded.generator)
            if self.device.type == "cuda" and worth_recording(loaded.generator, batch_size):
                self._network = Replayed(self._network)
        self.nfe = 0  # evaluations of the network per image, once one was made
        self.seconds = 0.0  # of sampling alone
        self.made = 0

    @property
    def images_per_second(self) -> float:
        """Throughput of sampling so far."""
        return self.made / max(self.seconds, 1e-9)

    def facts(self) -> dict[str, float]:
        """Return the seconds of sampling, and the evaluations of the network over all images."""
        return {"seconds": self.seconds, "nfe": float(self.nfe * self.made)}

    def read(self, start: int, end: int) -> Tensor:
        """Return the images `start` ... `end` - 1 as uint8 [N, H, W, C] on the device."""
        data = self.loaded.recipe["data"]
        pieces = []
        begun = time.perf_counter()
        for first in range(start, end, self._batch_size):
            labels = self._classes[first : min(first + self._batch_size, end)]
            images, self.nfe = _sample(
                self.loaded, labels, self._noise, first, self._sampling, network=self._network
            )
            pieces.append(to_uint8(images, data["mean"], data["std"]))
        found = torch.cat(pieces)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - begun
        self.made += end - start
        return found


def generate(
    loaded: LoadedGenerator,
    labels: NDArray[np.int64],
    *,
    seed: int,
    batch_size: int,
    sampling: SamplingConfig | None = None,
    on_progress: Progress | None = None,
) -> Samples:
    """Sample one image per label, all of them into memory; arguments as of `GeneratedImages`.

    `on_progress` is called with (done, total, values).
    """
    source = GeneratedImages(loaded, labels, seed=seed, batch_size=batch_size, sampling=sampling)
    pieces: list[NDArray[np.uint8]] = []
    for start in range(0, len(labels), batch_size):
        end = min(start + batch_size, len(labels))
        pieces.append(source.read(start, end).cpu().numpy())
        if on_progress:
            on_progress(end, len(labels), {"images_per_second": source.images_per_second})
    return Samples(np.concatenate(pieces), source.labels, source.nfe, source.seconds)


def trajectory(
    loaded: LoadedGenerator,
    labels: np.ndarray,
    *,
    seed: int,
    frames: int = 8,
    sampling: SamplingConfig | None = None,
) -> np.ndarray:
    """Return denoised estimates along the sampler's path, uint8 [T, N, H, W, C].

    A consistency model has one step: T is 2, the noise and the image.
    """
    sampling = sampling or loaded.sampling
    _check(loaded, labels, sampling)
    device = prepare_device()
    loaded.generator.to(device)
    chunk = torch.from_numpy(np.asarray(labels)).to(device)
    seen: list[np.ndarray] = []

    def watch(denoised: Tensor, _nfe: int) -> None:
        seen.append(_to_pixels(loaded, denoised))

    noise = _noise_of(loaded, seed, len(labels), device)
    images, _ = _sample(loaded, chunk, noise, 0, sampling, watch)
    if sampling.objective == "consistency":
        begun = 0.5 * noise.take(0, len(labels))
        return np.stack([_to_pixels(loaded, begun), _to_pixels(loaded, images)])
    chosen = np.linspace(0, len(seen) - 1, min(frames, len(seen))).round().astype(int)
    return np.stack([seen[i] for i in chosen])


def _check(loaded: LoadedGenerator, labels: np.ndarray, sampling: SamplingConfig) -> None:
    count = len(loaded.classes)
    wrong = [int(label) for label in labels if not 0 <= label < count]
    if wrong:
        raise UserError(f"class {wrong[0]}: this model has the classes 0 to {count - 1}")
    if len(labels) == 0:
        raise UserError("no labels to sample: ask for at least one image")
    if sampling.objective != loaded.objective:
        raise UserError(
            f"objective {sampling.objective!r}: these weights were trained as a "
            f"{loaded.objective} model; name the weights of the other, or this objective"
        )


@torch.inference_mode()
def _sample(
    loaded: LoadedGenerator,
    labels: Tensor,
    noise: SeriesNoise,
    first: int,
    sampling: SamplingConfig,
    watch: Watcher | None = None,
    network: Network | None = None,
) -> tuple[Tensor, int]:
    """Sample the images `first` ... of a series; returns model units [N, C, H, W] and the NFE."""
    clamp = _clamp(loaded, sampling, labels.device)
    denoise = _denoiser(network or _network(loaded, sampling), sampling)
    denoiser = CountingDenoiser(denoise, labels, loaded.generator.null_class, sampling, clamp)
    drawn = partial(noise.take, first, len(labels))
    if sampling.objective == "denoising":
        return heun(denoiser, drawn(), sampling, watch)
    return consistency(denoiser, drawn, sampling)


def _clamp(
    loaded: LoadedGenerator, sampling: SamplingConfig, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Bounds of every estimate, (low [C], high [C]); None: there are none."""
    if sampling.clamp == "none":
        return None
    data = loaded.recipe["data"]
    low, high = valid_range(data["mean"], data["std"])
    if sampling.clamp == "unit":
        low, high = torch.full_like(low, -1.0), torch.full_like(high, 1.0)
    return low.to(device), high.to(device)


def worth_recording(generator: Generator, batch_size: int) -> bool:
    """Tell whether launches take a good part of a pass of so many images: a small network's."""
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    tokens = generator.encoder.num_patches + NUM_PREFIX_TOKENS
    return 2.0 * parameters * tokens * batch_size < _WORTH_RECORDING


def _network(loaded: LoadedGenerator, sampling: SamplingConfig) -> Network:
    """Return the generator's pass in the numbers that sampling asks for."""
    device = next(loaded.generator.parameters()).device
    precision = Precision(sampling.precision, sampling.objective, device)
    return precision.network(loaded.generator)


def _denoiser(network: Network, sampling: SamplingConfig) -> Denoiser:
    """D of the objective: (x [N, C, H, W], shifted sigma [N], labels [N])."""
    sigma_data = sampling.sigma_data
    if sampling.objective == "denoising":
        return lambda x, sigma, y: denoise_directly(network, x, sigma, y, sigma_data)
    floor = sampling.sigma_shift * sampling.sigma_min
    return lambda x, sigma, y: denoise_consistently(network, x, sigma, y, sigma_data, floor)


def _noise_of(loaded: LoadedGenerator, seed: int, count: int, device: torch.device) -> SeriesNoise:
    data = loaded.recipe["data"]
    return SeriesNoise(
        seed, (data["channels"], data["image_size"], data["image_size"]), count, device
    )


def _to_pixels(loaded: LoadedGenerator, images: Tensor) -> np.ndarray:
    data = loaded.recipe["data"]
    pixels: np.ndarray = to_uint8(images, data["mean"], data["std"]).cpu().numpy()
    return pixels
