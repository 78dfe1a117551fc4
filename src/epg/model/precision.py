"""How the network computes: in which numbers, and compiled or not.

Losses, levels and moving averages stay in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from epg.config.training import Numbers
from epg.errors import UserError
from epg.model.decoder import DecoderBlock
from epg.model.encoder import Encoder
from epg.model.layers import Block

COMPILE_VARIABLE = "EPG_COMPILE"

P = ParamSpec("P")
T = TypeVar("T")

# On a GPU: neighbours of a consistency pair differ by less than bfloat16 resolves.
_AUTOMATIC = {"pretrain": "bfloat16", "denoising": "bfloat16", "consistency": "float16"}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_INITIAL_SCALE = 2.0**14
_PROGRAMS = 64  # of one function; beyond that it would silently run uncompiled


class Precision:
    """Autocast for the network's passes and, in float16, the scale of the loss.

    Attributes:
        name: `float32`, `bfloat16` or `float16`.
        compiles: whether the transformer's blocks are compiled.
        scaler: disabled unless it is `float16`.
    """

    def __init__(self, wanted: Numbers, objective: str, device: torch.device) -> None:
        """Choose the type: as asked, else by device and objective."""
        self.name: str = wanted
        if wanted == "auto":
            self.name = _AUTOMATIC[objective] if device.type == "cuda" else "float32"
        self.compiles = _wants_compiling(device)
        self._device = device
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=_INITIAL_SCALE, enabled=self.name == "float16"
        )
        if self.scaler.is_enabled():
            self.scaler.scale(torch.zeros(1, device=device))  # makes its tensors

    @classmethod
    def full(cls, device: torch.device | None = None) -> Precision:
        """Float32 everywhere."""
        return cls("float32", "", device or torch.device("cpu"))

    def compiled(self, module: nn.Module) -> nn.Module:
        """Compile a module's transformer blocks and what comes before them, in place, if at all.

        All blocks of a kind share one compiled program: seconds, where the whole network would
        take minutes, and the rest of it is next to nothing.
        """
        if self.compiles:
            # Blocks of a kind share their programs, one for each shape and mode of a process.
            torch._dynamo.config.recompile_limit = _PROGRAMS
            for child in module.modules():
                if isinstance(child, Block | DecoderBlock):
                    child.compile(dynamic=False)
                elif isinstance(child, Encoder):
                    child.fuses = True
        return module

    def fused(self, call: Callable[P, T]) -> Callable[P, T]:
        """Return a function of tensors compiled as a whole, if anything is compiled at all.

        It computes in float32, in fewer passes over memory.
        """
        return torch.compile(call, dynamic=False, fullgraph=True) if self.compiles else call

    def network(self, call: Callable[P, T]) -> Callable[P, T]:
        """Return a pass through the network that computes in these numbers.

        Each pass has a context of its own: within one, weights that were cast without a gradient
        would be taken from autocast's cache by the pass that needs one.
        """
        if self.name == "float32":
            return call

        def cast(*args: P.args, **kwargs: P.kwargs) -> T:
            with torch.autocast(self._device.type, dtype=_TYPES[self.name]):
                return call(*args, **kwargs)

        return cast

    def state(self) -> dict[str, Tensor]:
        """Return the scaler's own tensors, by name; none but in float16."""
        if not self.scaler.is_enabled():
            return {}
        scale, tracker = self.scaler._scale, self.scaler._growth_tracker
        assert scale is not None
        assert tracker is not None
        return {"scaler.scale": scale, "scaler.growth_tracker": tracker}


def _wants_compiling(device: torch.device) -> bool:
    """On a GPU, unless the environment says otherwise."""
    text = os.environ.get(COMPILE_VARIABLE, "auto")
    if text not in ("auto", "0", "1"):
        raise UserError(f"{COMPILE_VARIABLE} is {text!r}: use auto (on a GPU), 0 or 1")
    return text == "1" or (text == "auto" and device.type == "cuda")
