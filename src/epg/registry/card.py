"""The model card: a README.md that says what a model is, how good it is, and its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

#: Metric -> what it is, in words; `{features}` is the name of the feature network.
MEANINGS = {
    "fid": "Fréchet inception distance; lower is better",
    "sfid": "Fréchet distance in Inception's spatial features; lower is better",
    "inception_score": "Inception score; higher is better",
    "frechet_distance": "Fréchet distance in `{features}` features (not FID); lower is better",
    "precision": "share of generated images near real ones, in `{features}` features",
    "recall": "share of real images near generated ones, in `{features}` features",
    "svc_agreement": "generated images that an independent SVC reads as the requested class",
    "class_agreement": "generated images that `{features}` reads as the requested class",
    "classifier_held_out_accuracy": "accuracy of `{features}` on held-out real images",
    "nearest_neighbour_ratio": (
        "median distance to the nearest training image, relative to held-out real images; "
        "a model that copies comes near 0"
    ),
    "nfe": "evaluations of the network per image",
    "parameters": "parameters of the generator",
    "gmacs": "multiply-accumulates of one evaluation, in thousand millions",
    "images_per_second": "throughput when it was evaluated",
    "num_samples": "generated images that were judged",
}
_OBJECTIVES = {
    "denoising": "a diffusion model: it removes noise in many small steps",
    "consistency": "a consistency model: it makes an image in one step, without a teacher",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. All text may come from users and is shown as text."""

    model: str
    objective: str  # denoising or consistency
    recipe_name: str
    description: str
    data: Mapping[str, Any]  # source, image_size, channels, classes, train, held_out
    settings: Mapping[str, Any]  # what was trained how, in words -> value
    metrics: Mapping[str, Any]
    features: str  # name of the feature network
    versions: Mapping[str, Any] = field(default_factory=dict)


def render_card(facts: CardFacts) -> str:
    """Return the card as Markdown with a YAML head in Hugging Face's style."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    # Every expression is text and is escaped, unless a filter of ours has made it Markdown.
    environment = Environment(
        loader=PackageLoader("epg.registry"),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape_markdown(value),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML: `finalize` escapes
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: Markup(code_span(value))  # noqa: S704
    return environment.get_template("card.md.j2").render(
        facts=facts,
        head=Markup(_head(facts)),  # noqa: S704 - written by the YAML library
        kind=_OBJECTIVES.get(facts.objective, facts.objective),
        metrics=[(name, _shown(value), _meaning(name, facts)) for name, value in _numbers(facts)],
    )


def escape_markdown(value: object) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    text = " ".join(str(value).split())
    text = "".join(c for c in text if c.isprintable())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~$#])", r"\\\1", text)


def code_span(value: object) -> str:
    """Return text as inline code, whatever is in it; `|` would end a table's cell."""
    text = " ".join(str(value).split())
    text = "".join(c for c in text if c.isprintable()).replace("`", "'").replace("|", "¦")
    return f"`{text or ' '}`"


def _head(facts: CardFacts) -> str:
    source = " ".join(str(facts.data["source"]).split())
    content = {
        "library_name": "epg",
        "license": "other",
        "license_name": "see-the-licence-section",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["epg", "image-generation", "class-conditional", "pixel-space", facts.objective],
        "model-index": [
            {
                "name": facts.model,
                "results": [
                    {
                        "task": {"type": "image-generation"},
                        "dataset": {"name": source, "type": source},
                        "metrics": [
                            {"type": name, "name": _name(name, facts), "value": value}
                            for name, value in _numbers(facts)
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip("\n")


def _numbers(facts: CardFacts) -> list[tuple[str, int | float]]:
    """Metrics that are numbers, the ones that we can explain first."""
    order = [*MEANINGS, *sorted(set(facts.metrics) - set(MEANINGS))]
    return [
        (name, facts.metrics[name])
        for name in order
        if isinstance(facts.metrics.get(name), int | float)
    ]


def _name(name: str, facts: CardFacts) -> str:
    return f"{name} ({facts.features})" if "{features}" in MEANINGS.get(name, "") else name


def _meaning(name: str, facts: CardFacts) -> Any:
    from markupsafe import Markup

    meaning = MEANINGS.get(name, "")
    return Markup(meaning.replace("`{features}`", code_span(facts.features)))  # noqa: S704


def _shown(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
