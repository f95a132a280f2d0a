"""What TorchJD's methods remember between steps, for checkpoints.

They keep most of it outside `state_dict`; the names are those of TorchJD 0.18, to which the dependency is
pinned, and a test resumes every method.
"""

from __future__ import annotations

from typing import Any

import torch
from torchjd import aggregation, scalarization


def method_state(method: Any) -> dict[str, Any]:
    """Return a method's memory as plain types and tensors; empty where it has none."""
    if isinstance(method, scalarization.DWA):
        return {
            "loss_sum": method._loss_sum,
            "batches": method._n_batches,
            "averages": method._previous_averages,
        }
    if isinstance(method, scalarization.FAMO):
        optimizer = method._optimizer
        return {
            "logits": method._w.detach().clone(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
        }
    if isinstance(method, aggregation.GradVac):
        return {"targets": method.gramian_weighting._phi_t}
    if isinstance(method, aggregation.NashMTL):
        return {"weights": torch.from_numpy(method.weighting.prvs_alpha).clone()}
    return {}


def load_method_state(method: Any, state: dict[str, Any], device: torch.device | str) -> None:
    """Set the memory of a fresh method, on `device`, to what `method_state` returned."""
    if isinstance(method, scalarization.DWA):
        total = state["loss_sum"]
        method._loss_sum = None if total is None else total.to(device)
        method._n_batches = state["batches"]
        method._previous_averages = [average.to(device) for average in state["averages"]]
    elif isinstance(method, scalarization.FAMO):
        with torch.no_grad():
            method._w.copy_(state["logits"])
        if state["optimizer"] is not None:
            method._optimizer = torch.optim.Adam([method._w], lr=method.lr, weight_decay=method.weight_decay)
            method._optimizer.load_state_dict(state["optimizer"])
    elif isinstance(method, aggregation.GradVac) and state["targets"] is not None:
        targets = state["targets"]
        method.gramian_weighting._phi_t = targets
        method.gramian_weighting._state_key = (len(targets), targets.dtype)
    elif isinstance(method, aggregation.NashMTL):
        method.weighting.prvs_alpha = state["weights"].numpy()
