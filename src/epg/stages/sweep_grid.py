"""What a sweep tries, by options or by a pipeline's parameter, and by which figure it chooses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epg.errors import UserError
from epg.measures import find

#: Figures that settings are chosen by, in this order, where the recipe measures them.
FIGURES = ("fid", "frechet_distance_dinov2", "frechet_distance")
_MOST = 200  # settings of one sweep
_LARGEST = 1e9  # far above any use; no number that is none is below
_WANTED = {
    "guidance_scale": "numbers, such as [1, 2, 3]",
    "guidance_interval": "pairs of numbers, such as [[0.19, 1.61]]",
    "steps": "whole numbers, such as [18, 32]",
    "ema": "numbers, such as [0.999, 0.9999]",
}


@dataclass(frozen=True)
class Grid:
    """Values to try; every combination is. An empty list leaves a setting as the recipe has it.

    Attributes:
        guidance_scale: of a diffusion model.
        guidance_interval: pairs [low, high] of unshifted noise levels.
        steps: noise levels, or evaluations of a consistency model.
        ema: rates of the weights' moving averages that the training kept.
    """

    ema: tuple[float, ...] = ()  # the first: other weights are loaded as seldom as can be
    guidance_scale: tuple[float, ...] = ()
    guidance_interval: tuple[tuple[float, float], ...] = ()
    steps: tuple[int, ...] = ()

    def points(self) -> list[dict[str, Any]]:
        """Return every combination, each as the settings that it changes."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        wanted = {name: values for name, values in given.items() if values}
        if not wanted:
            raise UserError(
                "nothing to try: give values, such as --guidance-scale 1,1.5,2,3 or --steps 18,32"
            )
        combined = itertools.product(*wanted.values())
        found = [dict(zip(wanted, values, strict=True)) for values in combined]
        if len(found) > _MOST:
            raise UserError(f"{len(found)} settings to try: at most {_MOST} in one sweep")
        return found


def read_grid(given: Mapping[str, Any]) -> Grid:
    """Read a grid: setting -> list of values.

    Raises:
        UserError: an unknown setting, or a value that is none; the line names both.
    """
    unknown = sorted(set(given) - set(_WANTED))
    if unknown:
        raise UserError(f"grid has {unknown[0]!r}: it may have {', '.join(_WANTED)}")
    for name, values in given.items():
        known = isinstance(values, list | tuple)
        if not known or not all(_is_value(name, value) for value in values):
            raise UserError(f"grid: {name} is {repr(values)[:100]}: write {_WANTED[name]}")
    return Grid(
        guidance_scale=tuple(map(float, given.get("guidance_scale", ()))),
        guidance_interval=tuple(
            (float(low), float(high)) for low, high in given.get("guidance_interval", ())
        ),
        steps=tuple(map(int, given.get("steps", ()))),
        ema=tuple(map(float, given.get("ema", ()))),
    )


def chosen_figure(wanted: str, networks: Sequence[str]) -> str:
    """Return by which figure is chosen. Raises `UserError` for one that is not measured."""
    able = [name for name in FIGURES if (m := find(name)) and m.networks[0] in networks]
    if not wanted:
        return able[0]
    if wanted not in able:
        raise UserError(f"--figure {wanted}: this recipe measures {', '.join(able)}")
    return wanted


def _is_value(name: str, value: Any) -> bool:
    if name == "guidance_interval":
        return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    # Kubeflow hands every number over as a double.
    return _is_number(value) and (name != "steps" or float(value).is_integer())


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and type(value) is not bool
    return known and -_LARGEST < value < _LARGEST
