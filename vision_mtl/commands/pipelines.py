"""A run's checkpoint, or a config with COCO weights, to what answers images."""

from __future__ import annotations

from collections.abc import Sequence

from vision_mtl.commands.shared import Trained, choose_device, is_config, open_checkpoint, open_weights
from vision_mtl.config import load_config
from vision_mtl.errors import ConfigError
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.thresholds import Thresholds
from vision_mtl.models.compiling import compile_network
from vision_mtl.models.folding import for_inference
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.published import coco_classes
from vision_mtl.training.log import start_logging


def open_trained(checkpoint: str, overrides: Sequence[str] = ()) -> Trained:
    """Return the network of a run's checkpoint, or of a config with COCO weights."""
    return (open_detector if is_config(checkpoint) else open_checkpoint)(checkpoint, overrides)


def open_detector(path: str, overrides: Sequence[str]) -> Trained:
    """Return the detector of a config with COCO weights, which needs no data set; its other heads are left
    out, since nothing says what they answer with.

    Raises:
        ConfigError: the config has no detection head or no `weights`, or they are not of COCO's classes.
        CheckpointError: weights that cannot be loaded.
    """
    start_logging()  # what was loaded, and what is left out
    config = load_config(path, overrides)
    config.heads = {name: head for name, head in config.heads.items() if head.label_source() is None}
    if not config.heads:
        raise ConfigError(f"{path}: heads: found no detection head, and published weights have no other")
    return open_weights(path, config, dict.fromkeys(config.heads, coco_classes()))


def pipeline_of(trained: Trained, threshold: float | None = None, compiled: bool = False) -> Pipeline:
    """Return a network with all that its config says of running it on images.

    Args:
        trained: the network.
        threshold: lowest score of a detection; None for the thresholds that are stored with the checkpoint.
        compiled: let torch.compile make it faster.
    """
    data, training = trained.config.data, trained.config.training
    device = choose_device(training.device)
    dtype = resolve_precision(training.precision, device)
    model = for_inference(trained.model.to(device), dtype)
    if compiled:
        compile_network(model, frozen=True)
    return Pipeline(
        model=model,
        resize=data.resize,
        device=device,
        dtype=dtype,
        thresholds=thresholds_of(trained, threshold),
        batch_size=data.eval_batch_size,
        workers=data.workers,
        max_pixels=data.max_pixels,
        reduced=data.reduced_decoding,
    )


def thresholds_of(trained: Trained, threshold: float | None) -> Thresholds:
    """Return a threshold for all detections; or, for None, those stored with the checkpoint."""
    if threshold is not None:
        return Thresholds(threshold)
    return Thresholds(classes=trained.points.thresholds if trained.points else {})
