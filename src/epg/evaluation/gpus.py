"""Kinds of GPUs: what their data sheets promise, and the part of it that was measured."""

from __future__ import annotations

from dataclasses import dataclass

from epg.errors import UserError, did_you_mean

#: Of memory that a GPU has, what a training may take: the rest is torch's, NCCL's, and in flight.
_USABLE = 0.92


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, as its data sheet has it: dense bf16 products without sparsity."""

    name: str
    tflops: float
    gigabytes: int


GPUS = {
    "a100": Gpu("A100 80 GB", 312.0, 80),
    "h100": Gpu("H100 SXM", 989.0, 80),
    "h200": Gpu("H200 SXM", 989.0, 141),
    "b200": Gpu("B200", 2250.0, 180),
    "l40s": Gpu("L40S", 362.0, 48),
    "rtx4090": Gpu("RTX 4090", 165.0, 24),
}


@dataclass(frozen=True)
class Share:
    """Part of a GPU's peak that a training reaches, and who measured it."""

    value: float
    source: str


_STEPS = "benchmarks/results/train_step.json: one H200, 128 images"
_SAMPLES = "benchmarks/results/sample.json: one H100"
#: What the benchmarks found on one GPU; the reading of data and several GPUs are not in it. The
#: hours that the paper's own trainings are told to have taken on eight H200 (57 and 139) are a
#: share of 0.21 and 0.20.
MEASURED_SHARES = {
    "pretrain": Share(0.421, f"{_STEPS}, Base"),
    "denoising": Share(0.417, f"{_STEPS}, XL/16"),
    "consistency": Share(0.380, f"{_STEPS}, L/16"),
}
#: Of passes in these numbers when images are sampled; float32 does without tensor cores.
SAMPLING_SHARES = {
    "float32": Share(0.039, f"{_SAMPLES}, XL/16"),
    "bfloat16": Share(0.382, f"{_SAMPLES}, XL/16"),
    "float16": Share(0.382, "as bfloat16"),
}


def find_gpu(gpu_type: str) -> Gpu:
    """Return a kind of GPU. Raises `UserError` that lists those that are known."""
    if gpu_type not in GPUS:
        raise UserError(
            f"--gpu-type {gpu_type}: unknown{did_you_mean(gpu_type, list(GPUS))}; "
            f"there are {', '.join(GPUS)}"
        )
    return GPUS[gpu_type]


def usable_bytes(gpu: Gpu) -> int:
    """Return what a training may take of a GPU's memory."""
    return int(gpu.gigabytes * 10**9 * _USABLE)
