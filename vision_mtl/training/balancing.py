"""Several tasks' losses to one, given only the tasks that are labelled in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchjd.scalarization import UW

from vision_mtl.training.config import BalancingConfig


class Balancer(nn.Module):
    """Weighs and adds task losses. Its parameters, if any, are trained with the network's.

    Args:
        config: the method.
        weights: task -> factor on its loss, the heads' `weight`.
    """

    def __init__(self, config: BalancingConfig, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)
        # One scalariser a task, so that a task without labels in a batch keeps its state.
        learned = weights if config.method == "uw" else ()
        self.uncertainty = nn.ModuleDict({name: UW(1) for name in learned})

    def forward(self, losses: Mapping[str, Tensor], labelled: Sequence[str]) -> Tensor:
        """Return the total (), a function of the losses of the labelled tasks.

        Args:
            losses: task -> loss () of every task.
            labelled: the tasks that have a label in this batch; the others add zero, which keeps their
                parameters in the graph.
        """
        total = torch.stack([loss * 0.0 for loss in losses.values()]).sum()
        for name in labelled:
            weighted = self.weights[name] * losses[name]
            learned = self.uncertainty[name](weighted[None]) if name in self.uncertainty else weighted
            total = total + learned
        return total
