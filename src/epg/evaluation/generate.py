"""Images from a generator: sampling per objective, with seeds that belong to each sample.

Shape letters: N samples, H W pixels, C channels, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epg.data.augment import to_uint8, valid_range
from epg.diffusion.denoisers import denoise_consistently, denoise_directly
from epg.diffusion.samplers import CountingDenoiser, Guidance, consistency, heun
from epg.diffusion.seeds import generator_for
from epg.errors import UserError
from epg.model.device import prepare_device
from epg.model.files import LoadedGenerator

Progress = Callable[[int, int, dict[str, float]], None]
#: Unshifted levels that a consistency model's second and later steps start from.
INTERMEDIATE_SIGMAS = (0.8, 2.5, 0.3, 10.0)


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


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample; None takes what the recipe says."""

    steps: int | None = None
    guidance_scale: float | None = None


def generate(
    loaded: LoadedGenerator,
    labels: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    steps: int | None = None,
    guidance_scale: float | None = None,
    on_progress: Progress | None = None,
) -> Samples:
    """Sample one image per label.

    Args:
        loaded: the generator.
        labels: int64 [N], 0 ... number of classes - 1.
        seed: sample i depends on (seed, i, its label) and not on the batch size.
        batch_size: images at once.
        steps: noise levels of Heun's method, or evaluations of a consistency model.
        guidance_scale: of a diffusion model; 1 is no guidance.
        on_progress: called with (done, total, values).

    Raises:
        UserError: a label that the model does not have, or options that its objective lacks.
    """
    _check(loaded, labels, steps, guidance_scale)
    device = prepare_device()
    loaded.generator.to(device)
    options = SamplingOptions(steps, guidance_scale)
    pieces: list[np.ndarray] = []
    nfe = 0
    begun = time.perf_counter()
    for start in range(0, len(labels), batch_size):
        chunk = torch.from_numpy(np.asarray(labels[start : start + batch_size])).to(device)
        images, nfe = _sample(loaded, chunk, seed, start, options, None)
        pieces.append(_to_pixels(loaded, images))
        if on_progress:
            done = start + len(chunk)
            rate = done / max(time.perf_counter() - begun, 1e-9)
            on_progress(done, len(labels), {"images_per_second": rate})
    seconds = time.perf_counter() - begun
    return Samples(np.concatenate(pieces), np.asarray(labels), nfe, seconds)


def trajectory(
    loaded: LoadedGenerator, labels: np.ndarray, *, seed: int, frames: int = 8
) -> np.ndarray:
    """Return denoised estimates along the sampler's path, uint8 [T, N, H, W, C].

    A consistency model has one step: T is 2, the noise and the image.
    """
    device = prepare_device()
    loaded.generator.to(device)
    chunk = torch.from_numpy(np.asarray(labels)).to(device)
    seen: list[np.ndarray] = []
    images, _ = _sample(
        loaded,
        chunk,
        seed,
        0,
        SamplingOptions(),
        lambda denoised, _nfe: seen.append(_to_pixels(loaded, denoised)),
    )
    if loaded.objective == "consistency":
        noise = _noise(loaded, seed, 0, len(labels), device)
        return np.stack([_to_pixels(loaded, 0.5 * noise), _to_pixels(loaded, images)])
    chosen = np.linspace(0, len(seen) - 1, min(frames, len(seen))).round().astype(int)
    return np.stack([seen[i] for i in chosen])


def _check(
    loaded: LoadedGenerator, labels: np.ndarray, steps: int | None, guidance_scale: float | None
) -> None:
    count = len(loaded.classes)
    wrong = [int(label) for label in labels if not 0 <= label < count]
    if wrong:
        raise UserError(f"class {wrong[0]}: this model has the classes 0 to {count - 1}")
    if len(labels) == 0:
        raise UserError("no labels to sample: ask for at least one image")
    if loaded.objective == "consistency":
        if guidance_scale not in (None, 1.0):
            raise UserError(
                f"guidance scale {guidance_scale}: a consistency model is trained without label "
                "dropout and takes no guidance; leave it out"
            )
        most = len(INTERMEDIATE_SIGMAS) + 1
        if steps is not None and not 1 <= steps <= most:
            raise UserError(f"{steps} steps: a consistency model takes 1 to {most}")
    elif steps is not None and steps < 2:
        raise UserError(f"{steps} steps: a diffusion model takes 2 or more noise levels")


@torch.inference_mode()
def _sample(
    loaded: LoadedGenerator,
    labels: Tensor,
    seed: int,
    first: int,
    options: SamplingOptions,
    watch: Callable[[Tensor, int], None] | None,
) -> tuple[Tensor, int]:
    """Sample the images `first` ... of a series; returns model units [N, C, H, W] and the NFE."""
    recipe = loaded.recipe
    diffusion, data = recipe["diffusion"], recipe["data"]
    shift = diffusion["sigma_shift"] or data["image_size"] / 64
    noise = _noise(loaded, seed, first, len(labels), labels.device)
    low, high = valid_range(data["mean"], data["std"])
    clamp = (low.to(labels.device), high.to(labels.device))
    sigma_data = diffusion["sigma_data"]
    if loaded.objective == "denoising":
        settings = recipe["denoising"]
        chosen = options.guidance_scale
        scale = settings["guidance_scale"] if chosen is None else chosen
        low_sigma, high_sigma = settings["guidance_interval"]
        return heun(
            CountingDenoiser(
                lambda x, s, y: denoise_directly(loaded.generator, x, s, y, sigma_data),
                labels,
                Guidance(scale, (low_sigma, high_sigma), loaded.generator.null_class),
                shift,
                clamp,
            ),
            noise,
            steps=options.steps or settings["sampling_steps"],
            sigma_min=diffusion["sigma_min"],
            sigma_max=diffusion["sigma_max"],
            rho=diffusion["rho"],
            sigma_shift=shift,
            final_euler_step=settings["final_euler_step"],
            watch=watch,
        )
    floor = shift * diffusion["sigma_min"]
    levels = sorted(INTERMEDIATE_SIGMAS[: (options.steps or 1) - 1], reverse=True)
    return consistency(
        CountingDenoiser(
            lambda x, s, y: denoise_consistently(loaded.generator, x, s, y, sigma_data, floor),
            labels,
            None,
            shift,
            clamp,
        ),
        noise,
        sigma_max=diffusion["sigma_max"],
        sigma_shift=shift,
        intermediate=tuple(levels),
        renoise=lambda i: _noise(loaded, seed, first, len(labels), labels.device, step=i + 1),
    )


def _noise(
    loaded: LoadedGenerator,
    seed: int,
    first: int,
    count: int,
    device: torch.device,
    step: int = 0,
) -> Tensor:
    """Standard normal noise [N, C, H, W], one seed per sample, drawn on the CPU everywhere."""
    data = loaded.recipe["data"]
    shape = (data["channels"], data["image_size"], data["image_size"])
    drawn = [
        torch.randn(shape, generator=generator_for(seed, "sample", first + i, step))
        for i in range(count)
    ]
    return torch.stack(drawn).to(device)


def _to_pixels(loaded: LoadedGenerator, images: Tensor) -> np.ndarray:
    data = loaded.recipe["data"]
    pixels: np.ndarray = to_uint8(images, data["mean"], data["std"]).cpu().numpy()
    return pixels
