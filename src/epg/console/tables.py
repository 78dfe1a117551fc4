"""Plain tables: what a recipe costs and takes, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epg.evaluation.gpus import GPUS
from epg.evaluation.planning import Plan, TrainingPlan
from epg.numbers import decimals, percent, short, significant, whole
from epg.protocol import FACTS, HASHES
from epg.published import GFLOPS_CONVENTION, MARKS, Published
from epg.report.protocols import words

_GIB = 2.0**30
_LAUNCH_SECONDS = 0.03  # that a step of some dozens of blocks takes to start its kernels


def aligned(rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> list[str]:
    """Return lines whose columns line up; those from `numbers_from` on are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place >= numbers_from else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def figure_lines(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """Return the figures of an evaluation with interval and protocol, and how they were measured.

    Args:
        metrics: name of a figure -> value.
        details: those of the evaluation.
    """
    intervals, hashes = details.get("intervals") or {}, details[HASHES]
    rows = [["", "", "interval", "protocol"]]
    for name, value in metrics.items():
        ends = " to ".join(significant(end) for end in intervals.get(name, ()))
        shown = whole(value) if isinstance(value, int) else f"{value:.6g}"
        rows.append([name, shown, ends, hashes.get(name, "")])
    how = [list(row) for row in words(details[FACTS], digits=12)]
    return [*aligned(rows), "", *aligned(how, numbers_from=2)]


def cost_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return what each generator of a recipe costs."""
    shown: list[list[str]] = [["", *(str(row["objective"]) for row in rows)]]
    for label, key, write in (
        ("Parameters", "params", whole),
        ("GMACs per evaluation", "gmacs_forward", _two),
        ("  without attention's products", "gmacs_forward_without_attention", _two),
        ("  in the paper's convention", "gmacs_paper", _two),
        ("GFLOPs per evaluation", "gflops_forward", _two),
        ("Evaluations per image (NFE)", "nfe", whole),
        ("GMACs per image", "gmacs_per_image", _two),
        ("GFLOPs per image", "gflops_per_image", _two),
    ):
        shown.append([label, *(write(row[key]) for row in rows)])
    return aligned(shown)


def _two(value: Any) -> str:
    return decimals(value, 2) if value >= 1 else significant(value)


def published_lines(title: str, rows: Sequence[Published]) -> list[str]:
    """Return a table of published results, each row with its source."""
    head = ["", "NFE", "Params", "GFLOPs", "FID", "IS", "Epochs", "Mark"]
    shown = [
        [
            row.method,
            row.nfe or "–",
            row.params or "–",
            row.gflops or "–",
            row.fid or "–",
            row.inception_score or "–",
            row.epochs or "–",
            row.mark,
        ]
        for row in rows
    ]
    marks = [f"{mark} {meaning}" for mark, meaning in MARKS.items()]
    return [
        title,
        *aligned([head, *shown]),
        f"GFLOPs here: {GFLOPS_CONVENTION}.",
        f"No mark: arXiv 2510.12586; {'; '.join(marks)}.",
    ]


def plan_lines(plan: Plan) -> list[str]:
    """Return what a recipe takes, as a page of text."""
    gpu = GPUS[plan.gpu_type]
    lines = [
        f"{plan.recipe} on {plan.gpus} x {gpu.name} ({gpu.tflops:g} TFLOP/s dense bf16, "
        f"{gpu.gigabytes} GB each)",
        "",
        *aligned([["", *(t.stage for t in plan.trainings)], *_training_rows(plan)]),
        "",
    ]
    for source in dict.fromkeys(t.share_source for t in plan.trainings):
        named = ", ".join(t.stage for t in plan.trainings if t.share_source == source)
        lines.append(f"Share of the peak ({named}): {source}.")
    if any(t.batch_size / t.images_per_second < _LAUNCH_SECONDS for t in plan.trainings):
        lines.append(
            f"A step here computes for less than {1000 * _LAUNCH_SECONDS:.0f} ms: starting its "
            "kernels takes longer, and the hours are a lower bound."
        )
    lines += [_fit(training, gpu.gigabytes) for training in plan.trainings if not training.fits]
    lines += ["", *_sampling_lines(plan), *_data_lines(plan), _total(plan)]
    return lines


def _training_rows(plan: Plan) -> list[list[str]]:
    def row(label: str, write: Any) -> list[str]:
        return [label, *(write(training) for training in plan.trainings)]

    rows = [
        row("Parameters", lambda t: whole(t.parameters)),
        row("GMACs per forward pass", lambda t: _two(t.gmacs_forward)),
        row("Steps", lambda t: whole(t.steps)),
        row("Batch", lambda t: whole(t.batch_size)),
        row("Images", lambda t: short(t.images)),
        row("Epochs", lambda t: "–" if t.epochs is None else f"{t.epochs:,.0f}"),
        row("TFLOPs per image trained", lambda t: significant(t.gflops_per_image / 1e3)),
        row("Share of the peak", lambda t: percent(t.share_of_peak)),
        row("Images per second", lambda t: whole(round(t.images_per_second))),
        row("GPU-hours", lambda t: significant(t.gpu_hours)),
        row("Hours", lambda t: significant(t.hours)),
        row("Memory per GPU, GiB", lambda t: _gib(t.state_bytes + t.activation_bytes)),
        row("  weights, optimizer, averages", lambda t: _gib(t.state_bytes)),
        row("  activations", lambda t: _gib(t.activation_bytes)),
        row("  of images at once", lambda t: whole(t.images_per_gpu)),
        row("  images that would fit", lambda t: whole(t.most_images_per_gpu)),
        row("Checkpoint, GB", lambda t: significant(t.checkpoint_bytes / 1e9)),
        row("From the store, MB/s", lambda t: significant(t.network_bytes_per_second / 1e6)),
    ]
    if plan.cost is not None:
        rows.append(row("Cost", lambda t: f"{t.cost:,.0f}"))
    return rows


def _gib(value: int) -> str:
    return decimals(value / _GIB, 1)


def _fit(training: TrainingPlan, gigabytes: int) -> str:
    most = training.most_images_per_gpu
    advice = f"at most {most:,} images fit at once" if most else "not even one image fits"
    return (
        f"{training.stage}: {training.images_per_gpu:,} images at once do not fit into "
        f"{gigabytes} GB ({advice}): more GPUs, gradient_accumulation (not where a loss compares "
        "all images), or activation_checkpointing"
    )


def _sampling_lines(plan: Plan) -> list[str]:
    return [
        f"{row['num_samples']:,} images of the {row['objective']} model (NFE {row['nfe']}, "
        f"{row['precision']}): "
        f"{significant(row['gflops_per_image'] / 1e3)} TFLOPs each, "
        f"{significant(row['gpu_hours'])} GPU-hours"
        for row in plan.sampling
    ]


def _data_lines(plan: Plan) -> list[str]:
    if plan.dataset_bytes is None:
        return [f"An image has {plan.image_bytes:,} bytes of pixels."]
    return [
        f"{plan.dataset_images:,} images, {significant(plan.dataset_bytes / 1e9)} GB of pixels; "
        "lossless compression takes about half off."
    ]


def _total(plan: Plan) -> str:
    cost = "" if plan.cost is None else f", cost {plan.cost:,.0f}"
    hours = plan.gpu_hours / plan.gpus
    return (
        f"Total of all trainings: {significant(plan.gpu_hours)} GPU-hours, "
        f"{significant(hours / 24)} days on {plan.gpus}{cost}. One objective alone needs the "
        "pre-training and itself."
    )
