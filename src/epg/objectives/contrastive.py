"""InfoNCE, the loss by which features agree.

Shape letters: N local batch, M global batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Gathers keys [N, D] of all ranks into [M, D], in rank order.
Gather = Callable[[Tensor], Tensor]


def info_nce(
    query: Tensor, key: Tensor, temperature: float, gather: Gather | None = None, rank: int = 0
) -> Tensor:
    """Return mean_i [logsumexp_j(q_i . k_j / tau) - q_i . k_i / tau], a scalar.

    Both sides are L2-normalised in float32; the gradient goes through the query only.

    Args:
        query: [N, D].
        key: [N, D]; the i-th key is the positive of the i-th query.
        temperature: tau.
        gather: collects the keys of all ranks; None on one process.
        rank: this process, which tells where its positives lie among the gathered keys.

    Source: docs/method.md, 2.2.
    """
    query = F.normalize(query.float(), dim=1)
    key = F.normalize(key.detach().float(), dim=1)
    keys = gather(key) if gather is not None else key
    logits = query @ keys.T / temperature  # [N, M]
    positives = torch.arange(len(query), device=query.device) + rank * len(query)
    return F.cross_entropy(logits, positives)
