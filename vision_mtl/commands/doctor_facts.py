"""What `tools/doctor.py` judges: the facts of this machine, each found when it is asked for."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vision_mtl.data.cache import cache_folder


def normal_name(name: str) -> str:
    """Return a distribution's name in one spelling of several."""
    return name.lower().replace("_", "-")


def installed_packages() -> dict[str, str]:
    """Return normalised name -> version of all installed distributions."""
    return {
        normal_name(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.metadata["Name"]
    }


def requirements() -> list[str]:
    """Return the project's own requirements; PackageNotFoundError where it is not installed."""
    return importlib.metadata.requires("vision-mtl") or []


def gpu_names() -> list[str]:
    """Return the GPUs that torch sees."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def convolution_times() -> dict[tuple[str, str], float]:
    """Return the fastest of several 3x3 convolutions of 64 channels at 64x64, in ms, by format and layout."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    times = {}
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for layout, memory in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
            layer = torch.nn.Conv2d(64, 64, 3, padding=1, device=device, dtype=dtype)
            layer = layer.to(memory_format=memory)
            images = torch.zeros(4, 64, 64, 64, device=device, dtype=dtype).to(memory_format=memory)
            times[kind, layout] = 1000 * min(_seconds(layer, images, device) for _ in range(5))
    return times


def _seconds(layer: Callable[[Any], Any], images: Any, device: str) -> float:
    import torch

    started = time.perf_counter()
    with torch.inference_mode():
        layer(images)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def chosen_format() -> str:
    """Return the number format that `training.precision=auto` takes here."""
    import torch

    from vision_mtl.commands.shared import choose_device
    from vision_mtl.models.precision import resolve_precision

    chosen = resolve_precision("auto", choose_device("auto"))
    return "bf16" if chosen == torch.bfloat16 else "fp32"


def shared_memory() -> int | None:
    """Return the size of /dev/shm in bytes."""
    return shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None


def free_space() -> dict[str, int]:
    """Return the free bytes of this folder and of the cache's."""
    places = {"this folder": Path.cwd(), "the cache's": _existing(cache_folder())}
    return {name: shutil.disk_usage(path).free for name, path in places.items()}


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def write_and_remove(folder: Path) -> None:
    """Make the folder and a file in it, which goes again."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"doctor")


def train_a_little(seconds: float) -> tuple[int, float, float]:
    """Train a small detector on one batch, 20 steps or as many as `seconds` allow."""
    import torch

    from vision_mtl.commands.shared import choose_device
    from vision_mtl.config import config_from_tree
    from vision_mtl.heads.base import LabelInfo
    from vision_mtl.models.multitask import build_model
    from vision_mtl.models.precision import mixed_precision, resolve_precision
    from vision_mtl.structures import Batch, ImageMeta

    tree = {"trunk": {"name": "resnet18", "channels": 32}, "heads": {"objects": {"type": "fcos", "depth": 1}}}
    device = choose_device("auto")
    dtype = resolve_precision("auto", device)
    model = build_model(
        config_from_tree(tree, "the doctor").model(), {"objects": LabelInfo(("thing",), (1,))}
    )
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    batch = Batch(
        images=torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8),
        sizes=torch.tensor([[128, 128], [128, 96]]),
        boxes=torch.tensor([[[16.0, 16, 80, 80]], [[8.0, 8, 60, 90]]]),
        classes=torch.tensor([[0], [0]]),
        ignore=torch.zeros(2, 1, dtype=torch.bool),
        has_boxes=torch.tensor([True, True]),
        labels={},
        metas=[ImageMeta(i, f"{i}.png", (128, 128), (1.0, 1.0)) for i in range(2)],
    ).to(device)
    steps, started, loss = 0, time.perf_counter(), math.nan
    while steps < 20 and time.perf_counter() - started < seconds:
        with mixed_precision(device, dtype):
            features, outputs = model(batch.images, batch.sizes)
        total = torch.stack(list(model.losses(features, outputs, batch)["objects"].values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        steps, loss = steps + 1, float(total.detach())
    return steps, time.perf_counter() - started, loss
