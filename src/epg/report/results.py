"""The figures of both models: headline cards, the table with its gate, agreement by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from epg.report.facts import OBJECTIVES, RunFacts, branch_state
from epg.report.numbers import decimals, finite, percent, short, significant, whole

MAX_CLASSES = 20  # a table of a thousand classes shows the worst ones
COPY_RATIO = 0.7  # below this, samples lie suspiciously close to training images


@dataclass(frozen=True)
class Measure:
    """One metric of the evaluate stages: its name for people and how it is written."""

    key: str
    title: str
    write: Callable[[Any], str]
    better: str = ""  # "higher", "lower" or ""
    meaning: str = ""


MEASURES = (
    Measure(
        "svc_agreement",
        "Agreement, judged by an SVC",
        percent,
        "higher",
        "generated images that a support vector classifier, trained on real pixels, gives the "
        "class asked for",
    ),
    Measure(
        "class_agreement",
        "Agreement, judged by the feature network",
        percent,
        "higher",
        "generated images that the feature network gives the class asked for",
    ),
    Measure(
        "frechet_distance",
        "Fréchet distance",
        significant,
        "lower",
        "distance between generated and held-out images in {features} features",
    ),
    Measure("fid", "FID", significant, "lower", "Fréchet distance in Inception features"),
    Measure("inception_score", "Inception score", significant, "higher"),
    Measure("precision", "Precision", lambda v: decimals(v, 3), "higher", "samples look real"),
    Measure("recall", "Recall", lambda v: decimals(v, 3), "higher", "samples are varied"),
    Measure(
        "nearest_neighbour_ratio",
        "Nearest-neighbour ratio",
        lambda v: decimals(v, 2),
        "",
        "median distance to the nearest training image, in units of the same for real held-out "
        "images; far below 1 would mean copies",
    ),
    Measure("nfe", "Network evaluations per image (NFE)", whole, "lower"),
    Measure("images_per_second", "Images per second", significant, "higher"),
    Measure("parameters", "Parameters", short),
    Measure("gmacs", "GMACs per evaluation", significant, "", "multiply-accumulates / 10⁹"),
    Measure("num_samples", "Images judged", whole),
    Measure(
        "classifier_held_out_accuracy",
        "The feature network itself",
        percent,
        "",
        "its accuracy on real held-out images: no model can be judged better than its judge",
    ),
)


@dataclass(frozen=True)
class Cell:
    """One model's value of one measure, and its gate: text such as `≥ 93.0 %`, met or not."""

    text: str
    bar: str = ""
    met: bool | None = None


def feature_name(facts: RunFacts) -> str:
    """Name the network in whose features distances are measured."""
    if facts.recipe.evaluate.networks[0] == "inception":
        return "Inception"
    for stage in ("evaluate-denoising", "evaluate-consistency", "reference-statistics"):
        for source in (facts.metrics(stage), facts.details(stage)):
            for key in ("feature_network", "features", "feature_name"):
                if isinstance(source.get(key), str) and source[key] != "classifier":
                    return str(source[key])
    return f"{facts.recipe.name}-cnn"


def shown_objectives(facts: RunFacts) -> list[str]:
    """Return the objectives that have a place on the page: all that were wanted."""
    wanted = [o for o in OBJECTIVES if branch_state(facts, o) != "not wanted"]
    return wanted or list(OBJECTIVES)


def result_rows(facts: RunFacts) -> list[tuple[Measure, str, list[Cell]]]:
    """Return (measure, its meaning, one cell per shown objective) for all that was measured."""
    features = feature_name(facts)
    values = {o: facts.metrics(f"evaluate-{o}") for o in shown_objectives(facts)}
    known = {measure.key for measure in MEASURES}
    extra = sorted(
        {k for v in values.values() for k, x in v.items() if k not in known and _is_number(x)}
    )
    rows = []
    for measure in (*MEASURES, *(Measure(key, key, significant) for key in extra)):
        if any(measure.key in measured for measured in values.values()):
            cells = [_cell(facts, measure, o, values[o]) for o in values]
            rows.append((measure, measure.meaning.format(features=features), cells))
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(facts: RunFacts, measure: Measure, objective: str, measured: Mapping[str, Any]) -> Cell:
    value = measured.get(measure.key)
    text = "–" if value is None else measure.write(value)
    limits = getattr(facts.recipe.gate, objective).get(measure.key, {})
    number = finite(value)
    bars, met = [], True
    for kind, sign in (("min", "≥"), ("max", "≤")):
        if kind in limits:
            limit = limits[kind]
            bars.append(f"{sign} {measure.write(limit)}")
            good = number is not None and (number >= limit if kind == "min" else number <= limit)
            met = met and good
    return Cell(text, " and ".join(bars), met if bars and value is not None else None)


def headline_cards(facts: RunFacts) -> list[dict[str, Any]]:
    """Return the cards at the top: title, note and one (objective, value) per shown model."""
    objectives = shown_objectives(facts)
    values = {o: facts.metrics(f"evaluate-{o}") for o in objectives}
    inception = any("fid" in measured for measured in values.values())
    judged_by_svc = any("svc_agreement" in measured for measured in values.values())
    agreement = "svc_agreement" if judged_by_svc else "class_agreement"
    wanted = (
        ("Inception score", "inception_score", significant, "higher is better")
        if inception and not judged_by_svc
        else (
            "Agreement",
            agreement,
            percent,
            "with the class asked for, says an independent "
            + ("SVC" if judged_by_svc else "classifier"),
        ),
        ("FID", "fid", significant, "Inception features; lower is better")
        if inception
        else (
            "Fréchet distance",
            "frechet_distance",
            significant,
            f"in {feature_name(facts)} features; lower is better",
        ),
        ("Network evaluations", "nfe", whole, "for one image (NFE)"),
        ("Images per second", "images_per_second", significant, _speed_note(facts)),
    )
    return [
        {
            "title": title,
            "note": note,
            "values": [
                (o, write(measured[key]) if key in measured else "–")
                for o, measured in values.items()
            ],
        }
        for title, key, write, note in wanted
        if any(key in measured for measured in values.values())
    ]


def _speed_note(facts: RunFacts) -> str:
    for objective in OBJECTIVES:
        record = facts.records.get(f"evaluate-{objective}")
        if record:
            where = record.details.get("device") or record.versions.get("device")
            cores = record.versions.get("cores")
            if where and str(where) != "cpu":
                return f"sampling on {where}"
            if cores:
                return f"sampling on {cores} CPU core{'s' if cores != 1 else ''}"
    return "sampling"


def copies_reading(facts: RunFacts) -> dict[str, Any] | None:
    """Say in plain words whether the samples are copies of training images."""
    ratios = {
        o: ratio
        for o in shown_objectives(facts)
        if (ratio := finite(facts.metrics(f"evaluate-{o}").get("nearest_neighbour_ratio")))
        is not None
    }
    if not ratios:
        return None
    limits = {
        o: getattr(facts.recipe.gate, o).get("nearest_neighbour_ratio", {}).get("min", COPY_RATIO)
        for o in ratios
    }
    close = [o for o in ratios if ratios[o] < limits[o]]
    bars = [
        (o, f"{100 * min(ratio, 1.5) / 1.5:.1f}", decimals(ratio, 2)) for o, ratio in ratios.items()
    ]
    if close:
        title = "Samples lie close to training images: look for copies."
        text = (
            "The median distance from a generated image to its nearest training image is less "
            f"than {decimals(min(limits.values()), 2)} of that of real images never trained on."
        )
    else:
        title = "Samples are not copies."
        text = (
            "A generated image lies about as far from its nearest training image as a real image "
            "that was never trained on (that distance is 1)."
        )
    mark = f"{100 * min(*limits.values(), 1.5) / 1.5:.1f}"
    return {"title": title, "text": text, "bars": bars, "mark": mark, "good": not close}


def class_agreement(facts: RunFacts, objective: str) -> dict[int, float]:
    """Return label -> agreement of one model, if its evaluate stage tells."""
    details = facts.details(f"evaluate-{objective}")
    keys = [k for k in details if "agreement" in k and ("by_class" in k or "per_class" in k)]
    for key in sorted(keys, key=lambda k: ("svc" not in k, k)):  # the independent judge first
        found = details[key]
        if isinstance(found, list):
            return {i: x for i, v in enumerate(found) if (x := finite(v)) is not None}
        if isinstance(found, Mapping):
            return _by_label(found, class_names(facts))
    return {}


def _by_label(found: Mapping[Any, Any], names: list[str]) -> dict[int, float]:
    labels = {}
    for name, value in found.items():
        number = finite(value)
        if name in names:
            label: int | None = names.index(name)
        else:
            label = int(name) if str(name).isdecimal() else None
        if label is not None and number is not None:
            labels[label] = number
    return labels


def class_names(facts: RunFacts) -> list[str]:
    """Return the names of the classes, from the manifest or else their numbers."""
    if facts.dataset:
        return [str(name) for name in facts.dataset.classes]
    return [str(label) for label in range(facts.recipe.data.num_classes)]


def shown_labels(facts: RunFacts) -> list[int]:
    """Return the labels that the page shows one by one: all, or those least agreed upon."""
    count = len(class_names(facts))
    if count <= MAX_CLASSES:
        return list(range(count))
    scores = [class_agreement(facts, o) for o in OBJECTIVES]

    def worst(label: int) -> float:
        return min((score[label] for score in scores if label in score), default=1.0)

    return sorted(sorted(range(count), key=worst)[:MAX_CLASSES])
