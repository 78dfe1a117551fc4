"""One reader for every YAML that people hand in: recipes, overrides, compiled pipelines.

Scalars are those of YAML 1.2 (its core schema): `010` is ten, `1:30` and `2024-01-01` are text,
`yes` is a word, `2e-4` is a number. What a few lines could blow up is bounded before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from epg.errors import UserError

_MAX_ALIASES = 100
_MAX_DEPTH = 64
_MAX_NODES = 200_000  # with aliases expanded; the largest compiled pipeline has 6,000
_MAX_DIGITS = 40  # of a number; 2**64 has 20
Lines = dict[tuple[str, ...], int]


class Document(NamedTuple):
    """What a YAML document says, and the line of every key by its path."""

    content: Any
    lines: Lines


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and words of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - the base's, replaced


class _Dumper(yaml.SafeDumper):
    """Quotes what readers of YAML 1.1 or of 1.2 would take for something else than text."""


_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_RESOLVERS = (  # the first that matches wins
    ("null", re.compile(r"~|null|Null|NULL|"), [*"~nN", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<"), ["<"]),
)
for _tag, _pattern, _first in _RESOLVERS:
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if len(text) > _MAX_DIGITS or _INTEGER.fullmatch(text) is None:
        raise yaml.constructor.ConstructorError(
            None, None, f"a whole number has at most {_MAX_DIGITS} digits", node.start_mark
        )
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise yaml.constructor.ConstructorError(None, None, "write true or false", node.start_mark)
    return text == "true"


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    try:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise yaml.constructor.ConstructorError(
            None, None, f"{text[:40]!r} is no number", node.start_mark
        ) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
for _tag in ("timestamp", "binary", "omap", "pairs", "set"):
    del _Loader.yaml_constructors[f"tag:yaml.org,2002:{_tag}"]


def parse_document(text: str, where: str) -> Document:
    """Read one document.

    Args:
        text: YAML.
        where: file or setting that errors begin with.

    Raises:
        UserError: it is no YAML, or none of a size that anybody writes; the line says where.
    """
    documents = list(parse_documents(text, where))
    if len(documents) > 1:
        raise UserError(f"{where}: {len(documents)} YAML documents; one is wanted")
    return documents[0] if documents else Document(None, {})


def parse_documents(text: str, where: str) -> Iterator[Document]:
    """Yield the documents of a text; as `parse_document`."""
    try:
        _check_events(text, where)
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                assert node is not None
                _check_size(node, where)
                lines: Lines = {}
                _index(node, (), lines, where)
                yield Document(loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where}{line}: not valid YAML: {_oneline(problem)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply: at most {_MAX_DEPTH} levels") from error


def write_document(content: Any) -> str:
    """Return YAML that `parse_document` reads back, keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _check_events(text: str, where: str) -> None:
    """Bound depth and aliases before any node is made."""
    depth = aliases = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _MAX_DEPTH:
            raise UserError(f"{where}: nested too deeply: at most {_MAX_DEPTH} levels")
        if aliases > _MAX_ALIASES:
            raise UserError(f"{where}: more than {_MAX_ALIASES} YAML aliases")


def _check_size(root: yaml.Node, where: str) -> None:
    """Bound what aliases and merges expand to; an alias of what it stands in has no end."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        sizes[id(node)] = _MAX_NODES + 1  # until it is known: met again, it holds itself
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(item) for item in node.value)
        sizes[id(node)] = total
        return total

    if size(root) > _MAX_NODES:
        raise UserError(f"{where}: its YAML aliases expand to more than {_MAX_NODES:,} values")


def _index(node: yaml.Node, path: tuple[str, ...], lines: Lines, where: str) -> None:
    """Note the line of every key, and refuse keys that appear twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                line = key_node.start_mark.line + 1
                raise UserError(f"{where}:{line}: a key is a word, not a list or a mapping")
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


def _oneline(error: object) -> str:
    return " ".join(str(error).split())
