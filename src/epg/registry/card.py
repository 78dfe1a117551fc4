"""The model card: a README.md that says what a model is, how good it is, and its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from epg.errors import one_line
from epg.measures import Measure, measured

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
    features: Mapping[str, str]  # feature networks, in the recipe's order: name there -> name
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
        metrics=[
            (measure.name, measure.write(value), _meaning(measure, facts))
            for measure, value in _numbers(facts)
        ],
    )


def escape_markdown(value: object) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    text = one_line(value)
    text = "".join(c for c in text if c.isprintable())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~$#])", r"\\\1", text)


def code_span(value: object) -> str:
    """Return text as inline code, whatever is in it; `|` would end a table's cell."""
    text = one_line(value)
    text = "".join(c for c in text if c.isprintable()).replace("`", "'").replace("|", "¦")
    return f"`{text or ' '}`"


def _head(facts: CardFacts) -> str:
    source = one_line(facts.data["source"])
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
                            {
                                "type": measure.name,
                                "name": _name(measure, facts),
                                "value": value,
                            }
                            for measure, value in _numbers(facts)
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip("\n")


def _numbers(facts: CardFacts) -> list[tuple[Measure, int | float]]:
    """Figures that were measured, in the order of the table."""
    return [
        (measure, facts.metrics[measure.name])
        for measure in measured(facts.metrics)
        if isinstance(facts.metrics[measure.name], int | float)
    ]


def _name(measure: Measure, facts: CardFacts) -> str:
    """Return the name for a hub, with the feature network where figures of others exist."""
    if "{network}" not in measure.explanation or measure.further:
        return measure.name
    kind = next(iter(facts.features)) if measure.shared else measure.networks[0]
    return f"{measure.name} ({facts.features[kind]})"


def _meaning(measure: Measure, facts: CardFacts) -> Any:
    from markupsafe import Markup

    networks = {kind: code_span(name) for kind, name in facts.features.items()}
    words = [measure.meaning(networks), measure.direction]
    return Markup("; ".join(filter(None, words)))  # noqa: S704 - ours, but for the code
