"""The rest of the page: pipeline timeline, registered models, what was run, what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from epg.numbers import duration, significant
from epg.report.ending import SHORT_TITLES
from epg.report.facts import RunFacts, branch_state, standing_failures
from epg.report.results import shown_objectives
from epg.runs.stage import Stage


def timeline(facts: RunFacts) -> dict[str, Any]:
    """Return one row per stage (name, kind, state, words, bar width in percent) and the sum."""
    failed = {failure.stage for failure in standing_failures(facts)}
    names = {stage.name for stage in facts.stages}
    shown = {name: r.duration_seconds for name, r in facts.records.items() if name in names}
    longest = max(shown.values(), default=0.0) or 1.0
    rows = []
    for stage in facts.stages:
        name = stage.name
        row = {"stage": name, "color": stage.objective or "shared", "width": "", "note": ""}
        if name in failed:
            rows.append({**row, "state": "failed", "words": "failed"})
        elif name in shown:
            reused = name in facts.reused
            rows.append(
                {
                    **row,
                    "state": "reused" if reused else "done",
                    "words": duration(shown[name]),
                    "width": f"{100 * shown[name] / longest:.2f}",
                    "note": "reused" if reused else "",
                }
            )
        else:
            rows.append({**row, "state": "absent", "words": _absent(facts, stage)})
    total = sum(shown.values())
    reused_total = sum(s for stage, s in shown.items() if stage in facts.reused)
    return {
        "rows": rows,
        "total": duration(total),
        "any_reused": reused_total > 0,
        "new": duration(total - reused_total),
    }


def _absent(facts: RunFacts, stage: Stage) -> str:
    if stage.objective:
        if branch_state(facts, stage.objective) == "not wanted":
            return "not wanted"
        verdict = facts.metrics("gate", stage.objective).get("verdict")
        if stage.step == "register" and verdict == "fail":
            return "gate said no"
    return "no result"


def gates(facts: RunFacts) -> list[tuple[str, str, str]]:
    """Return (objective, verdict `pass`/`fail`/``, reason) per shown model."""
    found = []
    for objective in shown_objectives(facts):
        metrics = facts.metrics("gate", objective)
        verdict = str(metrics.get("verdict", ""))
        verdict = verdict if verdict in {"pass", "fail"} else ""
        found.append((objective, verdict, str(metrics.get("reason", "no verdict yet"))))
    return found


def registered_models(facts: RunFacts) -> list[dict[str, str]]:
    """Return model, version, digest and uri of each registered model."""
    found = []
    for objective in shown_objectives(facts):
        metrics = facts.metrics("register", objective)
        if metrics:
            keys = ("model", "version", "digest", "uri")
            found.append(
                {"objective": objective, **{key: str(metrics.get(key, "–")) for key in keys}}
            )
    return found


def what_was_run(facts: RunFacts) -> list[tuple[str, str]]:
    """Return the particulars of the run as (name, value), the changing ones first."""
    recipe = facts.recipe
    rows = [
        ("run", facts.name),
        ("recipe", recipe.name),
        ("seed", str(recipe.seed)),
        ("store", facts.store_uri),
    ]
    if facts.dataset:
        rows.append(("data", data_words(facts)))
    versions: dict[str, list[str]] = {}
    for record in facts.records.values():
        for name, value in record.versions.items():
            seen = versions.setdefault(str(name), [])
            if str(value) not in seen:
                seen.append(str(value))
    order = ("git_commit", "epg", "python", "torch", "cores")
    names = [n for n in order if n in versions]
    names += sorted(set(versions) - set(order), key=lambda n: (n == "platform", n))
    titles = {"git_commit": "git commit", "cores": "CPU cores"}
    rows += [(titles.get(name, name), ", ".join(versions[name])) for name in names]
    starts = sorted(r.started for r in facts.records.values() if r.started)
    ends = sorted(r.finished for r in facts.records.values() if r.finished)
    if starts:
        rows += [("first stage began", clock(starts[0])), ("last stage ended", clock(ends[-1]))]
    return rows


def data_words(facts: RunFacts) -> str:
    """Describe the data set in one line."""
    data = facts.dataset
    if data is None:
        return ""
    total = sum(data.counts.values())
    color = "grey" if data.channels == 1 else "colour"
    parts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    size = f"{data.image_size}×{data.image_size}"
    return (
        f"{data.source}: {total:,} {color} images of {size}, {len(data.classes)} classes ({parts})"
    )


def clock(time: str) -> str:
    """Write an ISO time as `2026-01-31 12:00:00 UTC` where it is one."""
    return time.replace("T", " ").replace("+00:00", " UTC")


def next_commands(facts: RunFacts) -> list[tuple[str, str]]:
    """Return (what it does, command line) to copy; every value is quoted for the shell."""
    recipe, store = facts.recipe, facts.store_uri
    commands = []
    for model in registered_models(facts):
        title = SHORT_TITLES[model["objective"]].lower()
        place = shlex.quote(model["model"] if _default_store(store) else model["uri"])
        commands.append(
            (f"Draw new images ({title})", f"epg sample --model {place} --num 64 --out grid.png")
        )
    objective = shown_objectives(facts)[-1]
    steps = f"{objective}.steps={2 * getattr(recipe, objective).steps}"
    kept = [setting for setting in facts.settings if not setting.startswith(f"{objective}.steps=")]
    longer = facts.name + "-longer"
    commands += [
        ("Resume, or see this run again", _run_command(facts, facts.name, facts.settings)),
        (
            f"Train longer ({SHORT_TITLES[objective].lower()}, twice the steps)",
            _run_command(facts, longer, [*kept, steps]),
        ),
        (
            "The same pipeline on a Kubeflow cluster",
            "kfp --endpoint URL run submit -e epg -f pipelines/epg_full.yaml "
            f"recipe={shlex.quote(recipe.name)}",
        ),
    ]
    return commands


def _run_command(facts: RunFacts, name: str, settings: Sequence[str]) -> str:
    words = ["epg", "run", "--recipe", facts.recipe_argument or facts.recipe.name]
    words += ["--run-name", name]
    if "://" in facts.store_uri.removeprefix("file://"):
        words += ["--store", facts.store_uri]
    elif not _default_store(facts.store_uri):
        words += ["--output", facts.store_uri.removeprefix("file://")]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)


def _default_store(uri: str) -> bool:
    """Tell whether this is the store that a command finds without being told."""
    path = uri.removeprefix("file://").rstrip("/")
    return "://" not in path and path.rpartition("/")[2] == "runs"


def stage_figures(facts: RunFacts) -> list[tuple[str, str]]:
    """Return the compute of the model in words, counted analytically, and how fast it trained."""
    metrics = facts.metrics("count-gflops")
    return [*((str(key), significant(value)) for key, value in metrics.items()), *facts.paces]
