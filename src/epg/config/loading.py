"""Reading recipes: packaged names, files or YAML text, with overrides and errors that point.

Every error names the file, the line and the key, the value and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from epg.config.document import Lines, parse_document, write_document
from epg.config.earlier import RENAMED, translate
from epg.config.recipe import Recipe
from epg.errors import UserError, did_you_mean, one_line

_MAX_BYTES = 1_000_000
#: What JSON leaves as it is and YAML does not take.
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SHOWN = 100  # characters of a value


def available_recipes() -> list[str]:
    """Names of the recipes that travel with the package."""
    folder = resources.files("epg") / "recipes"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def load_recipe(recipe: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load, override and check a recipe.

    Args:
        recipe: name of a packaged recipe, path of a `.yaml` file, or YAML text (has a newline).
        overrides: dotted key -> value, such as `{"pretrain.steps": 100}`.

    Raises:
        UserError: one line with file, line, key, value, what is allowed.
    """
    where, text = _read(recipe)
    content, lines = _parse(text, where)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
        lines[tuple(key.split("."))] = 0
    for new, old in translate(content).items():
        lines[tuple(new.split("."))] = lines.get(tuple(old.split(".")), 0)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(error, where, lines)) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the fully resolved recipe as YAML text that `load_recipe` reads back."""
    return write_document(recipe.model_dump(mode="json"))


def passable_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as text in which no template engine on its way finds a mark.

    Kubeflow and Argo replace `{{...}}` wherever it stands. In JSON two braces that open can only
    stand within a text, where one of them may be written by its number; JSON is YAML.
    """
    text = dump_recipe(recipe)
    if "{{" not in text:
        return text
    text = json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False)
    text = text.replace("{{", "\\u007b\\u007b")
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def travels(overrides: Mapping[str, Any]) -> bool:
    """Tell whether settings come to a step as they are.

    Through JSON, past templates, and past Kubeflow, whose local runner takes no null.
    """
    text = json.dumps(overrides)
    return "{{" not in text and json.loads(text) == overrides and not _has_null(overrides)


def _has_null(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return value is None or (isinstance(value, list) and any(map(_has_null, value)))


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Read `--set a.b=c` settings; values are YAML (`2e-4`, `true`, `[0.1, 2]`, `null`)."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: write it as key=value, such as pretrain.steps=100")
        overrides[key.strip()] = parse_document(value, f"--set {_shortened(setting)}").content
    return overrides


def _read(recipe: str) -> tuple[str, str]:
    if "\n" in recipe:
        return "recipe", recipe
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        path = Path(recipe).expanduser()
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise UserError(f"{recipe}: a recipe has at most {_MAX_BYTES} bytes")
            return recipe, path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{recipe}: not UTF-8 text: save it as UTF-8") from error
        except OSError as error:
            raise UserError(f"{recipe}: cannot read it: {error.strerror}") from error
    names = available_recipes()
    if recipe not in names:
        raise UserError(
            f"unknown recipe {recipe!r}{did_you_mean(recipe, names)}: "
            f"there are {', '.join(names)}; or give the path of a .yaml file"
        )
    file = resources.files("epg") / "recipes" / f"{recipe}.yaml"
    return f"{recipe}.yaml", file.read_text(encoding="utf-8")


def _parse(text: str, where: str) -> tuple[dict[str, Any], Lines]:
    content, lines = parse_document(text, where)
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: a recipe is a mapping of sections (name, seed, data, model, ...)"
        )
    return content, lines


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    section: Any = content
    for parent in parents:
        section = section.setdefault(parent, {}) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"--set {key}: {'.'.join(parents)} is not a section of the recipe")
    section[last] = value


def _explain(error: ValidationError, where: str, lines: Lines) -> str:
    """One line for the first problem, with a count of the others."""
    problems = error.errors(include_url=False)
    # A key that has another name now explains why the new one is missing: it comes first.
    first = next((p for p in problems if _dotted(p["loc"]) in RENAMED), problems[0])
    path = tuple(str(part) for part in first["loc"])
    place = _place(path, where, lines)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {_problem(path, first)}{more}"


def _problem(path: tuple[str, ...], found: ErrorDetails) -> str:
    """What is wrong with the value at `path`, and what is allowed."""
    key = ".".join(path)
    if found["type"] == "extra_forbidden":
        if key in RENAMED:
            return _renamed(key)
        names = _known_keys(path[:-1])
        nearest = did_you_mean(path[-1], names)
        section = ".".join(path[:-1]) or "a recipe"
        return f"unknown key {key!r}" + (nearest or f": {section} has {', '.join(names)}")
    if found["type"] == "missing":
        return f"{key} is missing: {_description(path) or 'it has no default'}"
    if found["type"] == "value_error":
        text = str(found["ctx"]["error"])
        if _section(path) is None:  # about one value; otherwise it names the keys itself
            return f"{key} is {_shown(found['input'])}: {text}"
        return text if not key or text.startswith(f"{path[0]}.") else f"{key}.{text}"
    text = f"{key} is {_shown(found['input'])}: {one_line(found['msg']).lower()}"
    if isinstance(found["input"], str) and found["type"] in ("float_type", "int_type"):
        text += " (a plain decimal number, without quotes)"
    if isinstance(found["input"], str) and found["type"] == "bool_type":
        text += " (true or false, without quotes)"
    return text


def _renamed(key: str) -> str:
    new = RENAMED[key]
    description = _description(tuple(new.split(".")))
    return f"{key} is no more: write {new}" + (f" ({description})" if description else "")


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _shown(value: object) -> str:
    """Pairs as they are written in YAML; of what is long, the beginning."""
    return _shortened(repr(list(value) if isinstance(value, tuple) else value))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _place(path: tuple[str, ...], where: str, lines: Lines) -> str:
    for length in range(len(path), -1, -1):
        line = lines.get(path[:length])
        if line == 0:
            return f"--set {'.'.join(path[:length])}"
        if line is not None:
            return f"{where}:{line}"
    return where


def _section(path: tuple[str, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] = Recipe
    for part in path:
        if part not in section.model_fields:
            return None
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return None
        section = models[0]
    return section


def _known_keys(path: tuple[str, ...]) -> list[str]:
    section = _section(path)
    return sorted(section.model_fields) if section else []


def _description(path: tuple[str, ...]) -> str | None:
    section = _section(path[:-1])
    return section.model_fields[path[-1]].description if section else None
