"""What a resumed training needs of its optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's own tensors, not copies, as `optimizer.state.<parameter>.<entry>`.

    One that has made no step yet is given its first, empty state. Hyper-parameters are left out:
    the recipe and the schedule set them.
    """
    # Imported here: it takes a second, and a short training neither saves nor restores.
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    flat: dict[str, Any] = dict(get_optimizer_state_dict(network, optimizer, options=options))
    return {f"optimizer.{key}": value for key, value in flat.items() if isinstance(value, Tensor)}
