"""Which number format the convolutions run in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from vision_mtl.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes in it and `precision` allows, else float32.

    Raises:
        ConfigError: bf16 was asked for on a GPU that has none.
    """
    if precision == "fp32":
        return torch.float32
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not has_bf16:
            raise ConfigError(
                f"training.precision: found bf16, but {torch.cuda.get_device_name()} has none; use fp32"
            )
    else:
        # The public torch.cpu.get_capabilities is younger than the oldest torch that is supported.
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 or precision == "bf16" else torch.float32


def mixed_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return the context in which the network's forward pass runs in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
