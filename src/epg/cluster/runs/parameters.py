"""Pipeline parameters from `key=value` words: their types are those of the compiled file.

Kubeflow's own command line guesses types before it knows the parameter (`s=1.10` becomes 1.1),
and the server then refuses them with a dump.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epg.config.document import parse_documents
from epg.errors import UserError, did_you_mean

#: Bytes: more does not fit into one of a step's arguments, for which Linux has 128 KiB.
LARGEST = 100_000
_MAX_BYTES = 20_000_000
_EXACT = 2**53  # integers travel as doubles
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline, as the compiled file declares it."""

    name: str
    type: str  # KFP's word, such as NUMBER_INTEGER
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline: what the server gets, and its parameters by name."""

    pipeline: dict[str, Any]
    platforms: dict[str, Any]
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pipeline's own name."""
        return str(self.pipeline["pipelineInfo"]["name"])

    def spec(self, *, cache: bool = True) -> dict[str, Any]:
        """Return the `pipeline_spec` of a run; without `cache`, no task takes an old result."""
        pipeline: dict[str, Any] = json.loads(json.dumps(self.pipeline))
        if not cache:
            for part in (pipeline["root"], *pipeline.get("components", {}).values()):
                for task in part.get("dag", {}).get("tasks", {}).values():
                    task["cachingOptions"] = {"enableCache": False}
        if not self.platforms:
            return pipeline
        return {"pipeline_spec": pipeline, "platform_spec": self.platforms}


def read_pipeline(path: Path) -> CompiledPipeline:
    """Read a compiled pipeline.

    Raises:
        UserError: the file is missing or no compiled pipeline.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: a compiled pipeline has at most {_MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    documents = [document.content for document in parse_documents(text, str(path))]
    if any(isinstance(part, dict) and "apiVersion" in part for part in documents):
        raise UserError(
            f"{path}: a Kubernetes manifest: apply it by kubectl; submit takes the plain compiled "
            "file, such as pipelines/epg_full.yaml"
        )
    try:
        pipeline, *more = documents
        declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        pipeline["pipelineInfo"]["name"]
        parameters = {
            name: Parameter(
                name,
                found["parameterType"],
                found.get("defaultValue"),
                "defaultValue" not in found and not found.get("isOptional", False),
            )
            for name, found in declared.items()
        }
        platforms = more[0] if more and more[0] else {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no compiled pipeline: make one by `epg compile`") from error
    return CompiledPipeline(pipeline, platforms, parameters)


def parse_arguments(words: Iterable[str], known: dict[str, Parameter]) -> dict[str, Any]:
    """Read `key=value` words.

    Raises:
        UserError: an unknown or repeated name, or a value of the wrong type.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word}: write a parameter as name=value, such as recipe=digits")
        if name not in known:
            raise UserError(f"unknown parameter {name!r}{_nearest(name, sorted(known))}")
        if name in arguments:
            raise UserError(f"parameter {name} is given twice")
        if text.startswith("@") and known[name].type == "STRING":
            text = _read_text(name, text[1:])
        arguments[name] = parse_value(known[name], text)
    missing = sorted(name for name, one in known.items() if one.required and name not in arguments)
    if missing:
        raise UserError(f"parameter {missing[0]} has no default: give {missing[0]}=VALUE")
    return arguments


def parse_value(parameter: Parameter, text: str) -> Any:
    """Read one value as the type that the pipeline declares.

    Raises:
        UserError: it is not one; the message names key, value and type.
    """
    if len(text) > LARGEST:
        raise UserError(f"{parameter.name}: {len(text):,} characters; at most {LARGEST:,} fit")
    kind = parameter.type
    if kind == "STRING":
        return text
    if kind == "BOOLEAN":
        if text.strip().lower() in _WORDS:
            return _WORDS[text.strip().lower()]
        raise _wrong(parameter, text, "true or false")
    if kind == "NUMBER_INTEGER":
        return _integer(parameter, text)
    if kind == "NUMBER_DOUBLE":
        number = _number(text)
        if number is None:
            raise _wrong(parameter, text, "a number, such as 0.5 or 2")
        return number
    if kind in ("STRUCT", "LIST"):
        wanted, example = (dict, '{"pretrain.steps": 100}') if kind == "STRUCT" else (list, "[1,2]")
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            value = None
        if not isinstance(value, wanted):
            raise _wrong(parameter, text, f"JSON such as '{example}'")
        return value
    raise UserError(f"parameter {parameter.name} is of type {kind}, which no command line can give")


def _integer(parameter: Parameter, text: str) -> int:
    number = _number(text)
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        value = int(text)
    elif number is not None and number.is_integer():
        value = int(number)
    else:
        raise _wrong(parameter, text, "a whole number")
    if abs(value) > _EXACT:
        raise _wrong(parameter, text, f"a whole number within ±{_EXACT}")
    return value


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _read_text(name: str, path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name}=@{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}=@{path}: not UTF-8 text") from error
    return text if "\n" in text else text + "\n"


def _wrong(parameter: Parameter, text: str, wanted: str) -> UserError:
    shown = repr(text if len(text) < 80 else text[:77] + "...")
    return UserError(f"parameter {parameter.name} is {shown}: it takes {wanted} ({parameter.type})")


def _refuse_constant(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are no JSON


def _nearest(word: str, names: list[str]) -> str:
    return (
        f"{did_you_mean(word, names)}: there are {', '.join(names)}"
        if names
        else ": the pipeline takes none"
    )
