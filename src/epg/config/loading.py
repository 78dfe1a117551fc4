"""Reading recipes: packaged names, files or YAML text, with overrides and errors that point.

Every error names the file, the line and the key, the value and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from epg.config.recipe import Recipe
from epg.errors import UserError, did_you_mean, one_line

_MAX_BYTES = 1_000_000
_MAX_ALIASES = 100
Lines = dict[tuple[str, ...], int]

#: Keys of earlier versions -> what says it now; the new key's own description explains it.
RENAMED = {
    "consistency.num_stages": "consistency.steps_per_stage",
    "evaluate.features": "evaluate.networks",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `2e-4` as the number that everyone means by it (YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


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
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(error, where, lines)) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the fully resolved recipe as YAML text that `load_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Read `--set a.b=c` settings; values are YAML (`2e-4`, `true`, `[0.1, 2]`, `null`)."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: write it as key=value, such as pretrain.steps=100")
        try:
            overrides[key.strip()] = yaml.load(value, _Loader)  # noqa: S506 -- a SafeLoader
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: the value is not YAML: {one_line(error)}") from error
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
    try:
        if sum(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text, _Loader)) > _MAX_ALIASES:
            raise UserError(f"{where}: more than {_MAX_ALIASES} YAML aliases")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: Lines = {}
            if node is not None:
                _index(node, (), lines, where)
            content = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply for a recipe") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: a recipe is a mapping of sections (name, seed, data, model, ...)"
        )
    return content, lines


def _index(node: yaml.Node, path: tuple[str, ...], lines: Lines, where: str) -> None:
    """Note the line of every key, and refuse keys that appear twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise UserError(f"{where}:{line}: {'.'.join((*path, key))} appears twice")
            seen.add(key)
            lines[(*path, key)] = line
            _index(value_node, (*path, key), lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _index(item, (*path, str(position)), lines, where)


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
    text = f"{key} is {found['input']!r}: {one_line(found['msg']).lower()}"
    if isinstance(found["input"], str) and found["type"] in ("float_type", "int_type"):
        text += " (without quotes)"
    return text


def _renamed(key: str) -> str:
    new = RENAMED[key]
    description = _description(tuple(new.split(".")))
    return f"{key} is no more: write {new}" + (f" ({description})" if description else "")


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _shown(value: object) -> str:
    """Pairs as they are written in YAML."""
    return repr(list(value) if isinstance(value, tuple) else value)


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
