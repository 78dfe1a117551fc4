"""What the parameters of our pipelines ask of pods and steps, checked before a server is asked.

A server takes any text: the pod that nobody can make is found out much later, by its absence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from epg.config import OBJECTIVES
from epg.errors import UserError

_QUANTITY = re.compile(r"(\d{1,18}|\d{1,18}\.\d{1,9}|\.\d{1,9})(m|k|[MGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}
_LEAST_MEMORY = 2**26  # bytes: less starts no Python
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,511}")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_TOLERATION = {"key", "operator", "value", "effect", "toleration_seconds", "tolerationSeconds"}
_HERE = re.compile(r"minio://(localhost|127\.[0-9.]+|\[::1\]|0\.0\.0\.0)(:|/|$)")


def check_requirements(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse parameters of which no pod can be made, that no pod can see, or that no step takes.

    Args:
        arguments: what is given, by name; other names than ours are passed over.
        defaults: what the pipeline says where nothing is given.

    Raises:
        UserError: one line that names the parameter.
    """
    for name, value in arguments.items():
        check = _CHECKS.get(name)
        problem = check(value) if check is not None else None
        if problem:
            raise UserError(f"parameter {name} is {_shown(value)}: {problem}")
    cpu, request = ({**defaults, **arguments}.get(n) for n in ("cpu", "cpu_request"))
    if {"cpu", "cpu_request"} & set(arguments) and _amount(request) > _amount(cpu):
        raise UserError(
            f"parameter cpu_request is {request!r}: it must not exceed cpu, which is {cpu!r}"
        )


def check_name(option: str, value: str | None) -> None:
    """Refuse what no object of Kubernetes may be called. Raises `UserError`."""
    if value is not None and not _NAME.fullmatch(value):
        raise UserError(
            f"{option} {_shown(value)}: a name of Kubernetes has lower-case letters, digits, '-' "
            "and '.'"
        )


def _amount(value: Any) -> Decimal:
    matched = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return Decimal(matched[1]) * _FACTORS[matched[2] or ""] if matched else Decimal(0)


def _cpu(value: Any) -> str | None:
    right = Decimal("0.001") <= _amount(value) <= 10_000
    return None if right else "write cores such as 2 or 500m"


def _memory(value: Any) -> str | None:
    right = _LEAST_MEMORY <= _amount(value) <= 2**60
    return None if right else "write bytes such as 8Gi or 8G (not GB), at least 64Mi"


def _count(value: Any) -> str | None:
    right = re.fullmatch(r"[0-9]{1,3}", value) if isinstance(value, str) else None
    return None if right else "write a whole number from 0 to 999"


def _accelerator(value: Any) -> str | None:
    return None if _RESOURCE.fullmatch(value) else "write a resource such as nvidia.com/gpu"


def _image(value: Any) -> str | None:
    right = _IMAGE.fullmatch(value) and "//" not in value
    return None if right else "write an image such as REGISTRY/NAME:TAG or NAME@sha256:..."


def _secret(value: Any) -> str | None:
    return None if _NAME.fullmatch(value) else "write the name of a Secret, such as epg-s3"


def _store(value: Any) -> str | None:
    if not value.startswith(("s3://", "minio://")):
        return "pods do not see it: write s3://BUCKET/PREFIX or minio://HOST:PORT/BUCKET/PREFIX"
    if _HERE.match(value):
        return "that is this machine, which pods do not mean by it: write the name of a service"
    if not value.partition("://")[2].strip("/"):
        return "it names no bucket"
    return None


def _objective(value: Any) -> str | None:
    return None if value in OBJECTIVES else f"write {' or '.join(OBJECTIVES)}"


def _natural(value: Any) -> str | None:
    return None if 0 <= value <= 10**9 else "write a whole number, at least 0"


def _figure(value: Any) -> str | None:
    from epg.stages.sweep_grid import FIGURES

    return None if value in ("", *FIGURES) else f"write {', '.join(FIGURES)}, or nothing"


def _grid(value: Any) -> str | None:
    from epg.stages.sweep_grid import read_grid

    return _refused(lambda: read_grid(value).points())


def _parts(value: Any) -> str | None:
    from epg.stages.parts import MOST_PARTS

    return None if 1 <= value <= MOST_PARTS else f"write a whole number from 1 to {MOST_PARTS}"


def _refused(read: Callable[[], Any]) -> str | None:
    """Return what the step itself would say."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


def _selector(value: Any) -> str | None:
    right = all(isinstance(v, str) and _LABEL.fullmatch(v) for v in value.values())
    return None if right and "" not in value else 'write labels such as {"pool": "gpu"}'


def _tolerations(value: Any) -> str | None:
    right = all(isinstance(item, dict) and item and set(item) <= _TOLERATION for item in value)
    return None if right else 'write a list such as [{"key": "gpu", "operator": "Exists"}]'


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "cpu": _cpu,
    "cpu_request": _cpu,
    "memory": _memory,
    "accelerator_count": _count,
    "accelerator_type": _accelerator,
    "image": _image,
    "tools_image": _image,
    "store": _store,
    "store_credentials": _secret,
    "objective": _objective,
    "num_samples": _natural,
    "figure": _figure,
    "grid": _grid,
    "shard_parts": _parts,
    "node_selector": _selector,
    "tolerations": _tolerations,
}


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
