"""What a stage is: its name, its place in the pipeline, and where its work stands."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from epg.telemetry.outcomes import OutcomeKind

#: How a stage runs: on CPUs without torch, with torch, on accelerators for days, to judge what was
#: trained, or as a short decision or effect.
Kind = Literal["preparing", "computing", "training", "judging", "deciding"]


@dataclass(frozen=True)
class Stage:
    """One stage of one run, as `epg.stages.catalog` lists them.

    Attributes:
        name: of the record, the step of a pipeline and the row of a report: `finetune-denoising`.
        step: the command and the component: `finetune`.
        objective: `denoising`, `consistency`, or empty for what both share.
        kind: how it runs.
        tells: what its metrics are of, for those who watch outcomes.
        needs: names of the stages whose results it uses.
    """

    name: str
    step: str
    objective: str
    kind: Kind
    needs: tuple[str, ...]
    tells: OutcomeKind = "nothing"

    def function(self) -> Any:
        """Import and return the plain function that does the work."""
        name = self.step.replace("-", "_")
        return getattr(import_module(f"epg.stages.{name}"), name)
