"""What a recipe takes, before anything starts: compute, time, memory, bytes, money.

All of it in closed form, without PyTorch; only the share of its peak that a GPU reaches is
measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from epg.config import OBJECTIVES
from epg.config.recipe import Recipe
from epg.diffusion.plan import evaluations, sampling_steps
from epg.errors import UserError
from epg.evaluation.gpus import (
    MEASURED_SHARES,
    SAMPLING_SHARES,
    Gpu,
    Share,
    find_gpu,
    usable_bytes,
)
from epg.evaluation.memory import Memory, Width, training_memory
from epg.model.flops import (
    encoder_cost,
    encoder_parameters,
    generator_cost,
    generator_parameters,
    projector_cost,
    projector_parameters,
)

TRAININGS = ("pretrain", *OBJECTIVES)
#: A backward pass multiplies twice for each product of the forward pass: by the weights for the
#: gradient of its input, by the input for that of the weights.
_FORWARD_AND_BACKWARD = 3
_FORWARD_AND_INPUTS = 2  # through frozen weights
#: Images of sources that never change.
_IMAGES = {"imagenet": 1_281_167, "digits": 1_797}


@dataclass(frozen=True)
class TrainingPlan:
    """One training; bytes and seconds are of the whole of it unless they are `per_...`."""

    stage: str
    parameters: int  # of what is trained
    gmacs_forward: float
    steps: int
    batch_size: int
    images: int
    epochs: float | None  # None: nobody knows how many images there are
    gflops_per_image: float  # of training, forward and backward
    exaflops: float
    share_of_peak: float
    share_source: str
    images_per_second: float  # all GPUs together
    gpu_hours: float
    hours: float
    cost: float | None
    images_per_gpu: int  # at once
    state_bytes: int
    activation_bytes: int
    fits: bool
    most_images_per_gpu: int
    checkpoint_bytes: int
    network_bytes_per_second: float


@dataclass(frozen=True)
class Plan:
    """What the whole recipe takes."""

    recipe: str
    gpus: int
    gpu_type: str
    peak_tflops: float
    gpu_bytes: int
    trainings: list[TrainingPlan]
    sampling: list[dict[str, Any]]
    dataset_images: int | None
    image_bytes: int
    dataset_bytes: int | None
    gpu_hours: float
    cost: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def make_plan(
    recipe: Recipe,
    *,
    gpus: int = 8,
    gpu_type: str = "h100",
    price: float | None = None,
    share: float | None = None,
) -> Plan:
    """Return the plan of a recipe on `gpus` of a kind.

    Args:
        recipe: the recipe.
        gpus: how many train together.
        gpu_type: a key of `epg.evaluation.gpus.GPUS`.
        price: of one GPU-hour, in any currency.
        share: part of the peak; default: as measured, see `TrainingPlan.share_source`.

    Raises:
        UserError: an unknown GPU, or a batch that the GPUs cannot share evenly.
    """
    recipe = recipe.with_assumed_classes()
    gpu = find_gpu(gpu_type)
    shares = dict(MEASURED_SHARES)
    if share is not None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"--share {share:g}: the part of a GPU's peak, above 0, at most 1")
        shares = {name: Share(share, "--share") for name in TRAININGS}
    if price is not None and price < 0:
        raise UserError(f"--price {price:g}: the price of a GPU-hour, at least 0")
    trainings = [
        _training(recipe, name, gpus, gpu, price, shares[name])
        for name in TRAININGS
        if name != "pretrain" or recipe.pretrain.enabled
    ]
    images, size = dataset_images(recipe), image_bytes(recipe)
    hours = sum(training.gpu_hours for training in trainings)
    return Plan(
        recipe=recipe.name,
        gpus=gpus,
        gpu_type=gpu_type,
        peak_tflops=gpu.tflops,
        gpu_bytes=gpu.gigabytes * 10**9,
        trainings=trainings,
        sampling=[_sampling(recipe, name, gpu) for name in OBJECTIVES],
        dataset_images=images,
        image_bytes=size,
        dataset_bytes=None if images is None else images * size,
        gpu_hours=hours,
        cost=None if price is None else hours * price,
    )


def dataset_images(recipe: Recipe) -> int | None:
    """Return how many images are trained on, where the source is one that never changes."""
    return _IMAGES.get(recipe.data.source.partition(":")[0])


def image_bytes(recipe: Recipe) -> int:
    """Return the bytes of a stored image's pixels; lossless compression takes about half off."""
    return recipe.data.channels * recipe.data.image_size**2


def training_gflops(recipe: Recipe, objective: str) -> float:
    """Return the GFLOPs of training on one image, 2 per multiply-accumulate.

    Source: docs/method.md, 7.1.
    """
    arguments = recipe.generator_arguments()
    encoder = encoder_cost(arguments["encoder"]).gmacs
    projector = projector_cost(recipe.projector_arguments()).gmacs
    generator = generator_cost(arguments).gmacs
    if objective == "pretrain":  # three passes with gradient, three without
        gmacs = encoder * (3 * _FORWARD_AND_BACKWARD + 3) + projector * (
            2 * _FORWARD_AND_BACKWARD + 2
        )
        return 2 * gmacs
    trained = generator * _FORWARD_AND_BACKWARD
    if not getattr(recipe, objective).encoder_trainable:
        trained -= encoder  # no gradient of its weights
    if objective == "denoising":
        return 2 * trained
    auxiliary = 0.0
    if recipe.has_auxiliary_term:
        frozen = encoder + projector * recipe.consistency.auxiliary_projector
        auxiliary = frozen * (_FORWARD_AND_INPUTS + 1)
    return 2 * (trained + generator + auxiliary)  # the pair's target has no gradient


def _training(
    recipe: Recipe, objective: str, gpus: int, gpu: Gpu, price: float | None, share: Share
) -> TrainingPlan:
    settings = getattr(recipe, objective)
    parts = settings.gradient_accumulation
    if settings.batch_size % (gpus * parts):
        raise UserError(
            f"{objective}.batch_size is {settings.batch_size}: {gpus} GPUs"
            f"{f' in {parts} parts' if parts > 1 else ''} cannot share it evenly"
        )
    per_gpu = settings.batch_size // (gpus * parts)
    width: Width = 4 if settings.precision == "float32" else 2
    memory = training_memory(recipe, objective, per_gpu, width)
    parameters, gmacs = _size(recipe, objective)
    images = settings.steps * settings.batch_size
    gflops = training_gflops(recipe, objective)
    rate = gpu.tflops * 1e3 * share.value / gflops  # of one GPU
    hours = images / rate / 3600
    known = dataset_images(recipe)
    return TrainingPlan(
        stage=objective,
        parameters=parameters,
        gmacs_forward=gmacs,
        steps=settings.steps,
        batch_size=settings.batch_size,
        images=images,
        epochs=None if known is None else images / known,
        gflops_per_image=gflops,
        exaflops=gflops * images / 1e9,
        share_of_peak=share.value,
        share_source=share.source,
        images_per_second=rate * gpus,
        gpu_hours=hours,
        hours=hours / gpus,
        cost=None if price is None else hours * price,
        images_per_gpu=per_gpu,
        state_bytes=memory.state,
        activation_bytes=memory.activations,
        fits=memory.total <= usable_bytes(gpu),
        most_images_per_gpu=_most_images(memory, per_gpu, gpu),
        checkpoint_bytes=_checkpoint_bytes(recipe, objective, parameters),
        network_bytes_per_second=rate * gpus * image_bytes(recipe),
    )


def _most_images(memory: Memory, images: int, gpu: Gpu) -> int:
    return max(0, (usable_bytes(gpu) - memory.state) * images // memory.activations)


def _size(recipe: Recipe, objective: str) -> tuple[int, float]:
    """Parameters that are trained, and GMACs of one forward pass."""
    arguments = recipe.generator_arguments()
    if objective == "pretrain":
        projector = recipe.projector_arguments()
        parameters = encoder_parameters(arguments["encoder"]) + projector_parameters(projector)
        return parameters, (encoder_cost(arguments["encoder"]) + projector_cost(projector)).gmacs
    return generator_parameters(arguments), generator_cost(arguments).gmacs


def _checkpoint_bytes(recipe: Recipe, objective: str, parameters: int) -> int:
    """Weights, AdamW's two moments and averages, float32; a frozen encoder has no moments."""
    if objective == "pretrain":
        return 4 * parameters * (1 + 2 + 1)
    settings = getattr(recipe, objective)
    frozen = 0 if settings.encoder_trainable else encoder_parameters(recipe.encoder_arguments())
    return 4 * (parameters * (1 + len(settings.ema_decays)) + 2 * (parameters - frozen))


def _sampling(recipe: Recipe, objective: str, gpu: Gpu) -> dict[str, Any]:
    sampling = recipe.sampling(objective)
    share = SAMPLING_SHARES[sampling.precision]
    nfe = evaluations(sampling_steps(sampling))
    gflops = 2 * generator_cost(recipe.generator_arguments()).gmacs * nfe
    count = recipe.evaluate.num_samples
    rate = gpu.tflops * 1e3 * share.value / gflops
    return {
        "objective": objective,
        "precision": sampling.precision,
        "nfe": nfe,
        "gflops_per_image": gflops,
        "num_samples": count,
        "images_per_second_per_gpu": rate,
        "gpu_hours": count / rate / 3600,
    }
