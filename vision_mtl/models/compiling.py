"""The network's parts compiled by torch.compile: the same answers, fewer passes over memory."""

from __future__ import annotations

import logging
import os
import shutil
import time
from typing import Any

from vision_mtl.errors import ConfigError
from vision_mtl.models.multitask import MultiTaskModel

COMPILERS = ("g++", "clang++", "c++", "cl")

logger = logging.getLogger(__name__)


def compile_network(model: MultiTaskModel, frozen: bool, backend: str = "inductor") -> None:
    """Compile trunk and heads in place, at the first batch; how long that took is logged.

    A batch of another shape is compiled again, for any shape from then on. Losses, decoding and NMS stay as
    they are. Copies of the model are not compiled.

    Args:
        model: what is compiled, on the device that it will stay on.
        frozen: its weights will not change: they are laid out for the processor once and for all.
        backend: of torch.compile.

    Raises:
        ConfigError: there is no C++ compiler, which compiling for the CPU needs.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    if (
        backend == "inductor"
        and on_cpu
        and not any(map(shutil.which, [os.environ.get("CXX", ""), *COMPILERS]))
    ):
        raise ConfigError(
            f"compiling: found no C++ compiler, neither {', '.join(COMPILERS)} nor what $CXX names; install "
            "one, e.g. g++, or leave out training.compile or --compile"
        )
    options = {"freezing": True} if frozen and backend == "inductor" else None
    for part in (model.trunk, *model.named_heads().values()):
        part.compile(backend=backend, options=options)
    started = 0.0

    def begin(*_: Any) -> None:
        nonlocal started
        logger.info("compiling the network at its first batch: this takes a minute or more")
        started = time.perf_counter()

    def end(*_: Any) -> None:
        for hook in hooks:
            hook.remove()
        logger.info("compiled in %.0f s", time.perf_counter() - started)

    hooks: list[Any] = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
