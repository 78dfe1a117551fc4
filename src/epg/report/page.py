"""The report: from facts to one HTML file."""

from __future__ import annotations

from typing import Any

from epg.numbers import duration, percent, significant, whole
from epg.report.comparison import published_tables
from epg.report.curves import loss_chart, side_charts
from epg.report.ending import SHORT_TITLES, TITLES, describe_end
from epg.report.facts import RunFacts, branch_state, standing_failures
from epg.report.html import render
from epg.report.images import MAX_STRIP_BYTES, embed
from epg.report.protocols import measured_on, protocols, warnings
from epg.report.results import (
    class_agreement,
    class_names,
    copies_reading,
    headline_cards,
    result_rows,
    shown_labels,
    shown_objectives,
)
from epg.report.story import (
    clock,
    data_words,
    gates,
    next_commands,
    registered_models,
    stage_figures,
    timeline,
    what_was_run,
)
from epg.report.sweep import sweep_view


def render_page(facts: RunFacts) -> str:
    """Return the report of a run as one self-contained HTML page.

    Whatever is missing is said or left out; a run of which nothing exists still gives a page.
    """
    return render(
        "page.html.j2",
        facts=facts,
        titles=TITLES,
        short_titles=SHORT_TITLES,
        end=describe_end(facts),
        subtitle=facts.recipe.description or data_words(facts),
        chips=_chips(facts),
        heroes=[_hero(facts, objective) for objective in shown_objectives(facts)],
        cards=headline_cards(facts),
        copies=copies_reading(facts),
        objectives=shown_objectives(facts),
        rows=result_rows(facts),
        measured_on=measured_on(facts),
        warnings=warnings(facts),
        protocols=protocols(facts),
        gates=gates(facts),
        classes=_classes(facts),
        trajectory=embed(facts.images.get("trajectory-denoising")),
        ends=[pair for o in shown_objectives(facts) for pair in _ends(facts, o)],
        sweeps=[(objective, sweep_view(content)) for objective, content in facts.sweeps.items()],
        published=published_tables(facts),
        stages=[
            {
                "stage": stage.name,
                "color": stage.objective or "shared",
                "chart": loss_chart(rows, stage.name),
                "side": side_charts(rows),
            }
            for stage in facts.stages
            if stage.kind == "training" and (rows := facts.series.get(stage.name))
        ],
        timeline=timeline(facts),
        models=registered_models(facts),
        particulars=what_was_run(facts),
        compute=stage_figures(facts),
        commands=next_commands(facts),
        clock=clock,
    )


def _chips(facts: RunFacts) -> list[str]:
    """Return the few facts below the title."""
    chips = []
    if facts.dataset:
        data = facts.dataset
        total = sum(data.counts.values())
        chips.append(f"{total:,} images, {len(data.classes)} classes")
    if facts.records:
        chips.append(f"{duration(sum(r.duration_seconds for r in facts.records.values()))} of work")
        cores = [c for r in facts.records.values() if (c := r.versions.get("cores"))]
        if cores:
            most = max(int(c) for c in cores)
            chips.append(f"{most} CPU core{'s' if most != 1 else ''}")
    chips.append(f"seed {facts.recipe.seed}")
    return chips


def _hero(facts: RunFacts, objective: str) -> dict[str, Any]:
    """Return one model's figure: its grid, or the words that stand in its place."""
    recipe = facts.recipe
    metrics = facts.metrics("evaluate", objective)
    nfe = metrics.get("nfe")
    if objective == "denoising":
        steps = recipe.denoising.sampling_steps
        how = f"{steps} sampling steps, guidance {significant(recipe.denoising.guidance_scale, 2)}"
    else:
        how = "straight from noise"
    if nfe is not None:
        how += f", {whole(nfe)} network evaluation{'s' if nfe != 1 else ''} per image"
    verdict = facts.metrics("gate", objective).get("verdict")
    words = {
        "failed": "This branch failed before it had samples.",
        "begun": "Not evaluated yet.",
        "not reached": "The run ended before this model was trained."
        if facts.status or standing_failures(facts)
        else "Not trained yet.",
    }
    return {
        "objective": objective,
        "title": TITLES[objective],
        "how": how,
        "picture": embed(facts.sheets.get(objective) or facts.images.get(f"grid-{objective}")),
        "verdict": verdict if verdict in ("pass", "fail") else "",
        "absent": words.get(branch_state(facts, objective), "There is no sample grid."),
    }


def _ends(facts: RunFacts, objective: str) -> list[dict[str, Any]]:
    """Return pictures of single samples: what the judge thinks of them, and are they copies?"""
    told = (
        (
            "judged",
            "Least and most certain",
            "Above, the samples that the judge is least sure show "
            "the class asked for; below, those it is surest of.",
        ),
        (
            "copies",
            "Nearest training images",
            "Above, the first samples; below each, the training "
            "image that lies nearest to it in pixels.",
        ),
    )
    found = []
    for name, title, words in told:
        picture = embed(facts.images.get(f"{name}-{objective}"))
        if picture is not None:
            title = f"{title}: {SHORT_TITLES[objective].lower()}"
            found.append({"title": title, "words": words, "picture": picture})
    return found


def _classes(facts: RunFacts) -> dict[str, Any] | None:
    """Return the rows of the class-by-class table, or None when there is nothing to show."""
    objectives = [
        o for o in shown_objectives(facts) if class_agreement(facts, o) or facts.strips.get(o)
    ]
    names = class_names(facts)
    if not objectives or not names:
        return None
    scores = {o: class_agreement(facts, o) for o in objectives}
    labels = [label for label in shown_labels(facts) if label < len(names)]

    def strip(source: str, label: int) -> Any:
        return embed(facts.strips.get(source, {}).get(label), MAX_STRIP_BYTES)

    rows = [
        {
            "name": names[label],
            "real": strip("real", label),
            "models": [
                {
                    "objective": o,
                    "strip": strip(o, label),
                    "share": f"{100 * min(max(scores[o][label], 0), 1):.1f}"
                    if label in scores[o]
                    else "",
                    "text": percent(scores[o][label]) if label in scores[o] else "",
                }
                for o in objectives
            ],
        }
        for label in labels
    ]
    return {
        "rows": rows,
        "objectives": objectives,
        "name_width": min(150, max(38, 9 * max(len(row["name"]) for row in rows))),
        "real": any(row["real"] for row in rows),
        "strips": any(model["strip"] for row in rows for model in row["models"]),
        "more": len(names) - len(labels),
    }
