"""`tools/infer.py`: images to answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from vision_mtl.commands.shared import Trained, choose_device, is_config, open_checkpoint, open_weights
from vision_mtl.config import load_config
from vision_mtl.errors import ConfigError
from vision_mtl.inference.files import find_images
from vision_mtl.inference.predictor import Predictor
from vision_mtl.inference.thresholds import DEFAULT_THRESHOLD, Thresholds, call_present, keep
from vision_mtl.inference.writers import (
    image_entry,
    make_folder,
    printable,
    summary_lines,
    write_csv,
    write_drawing,
    write_predictions,
)
from vision_mtl.models.compiling import compile_network
from vision_mtl.models.folding import for_inference
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.published import coco_classes
from vision_mtl.progress import duration, progress_bar
from vision_mtl.training.log import start_logging


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


def thresholds_of(trained: Trained, threshold: float | None) -> Thresholds:
    """Return a threshold for all detections; or, for None, those stored with the checkpoint."""
    if threshold is not None:
        return Thresholds(threshold)
    return Thresholds(DEFAULT_THRESHOLD, trained.points.thresholds if trained.points else {})


def infer_with_checkpoint(
    inputs: Sequence[str],
    checkpoint: str,
    output: Path,
    threshold: float | None,
    draw: bool,
    recursive: bool,
    overrides: Sequence[str] = (),
    compiled: bool = False,
) -> int:
    """Predict files as `tools/infer.py` does; return how many could not be read.

    `threshold` is the lowest score of a detection; None for what was stored with the checkpoint.

    Raises:
        VisionMTLError: wrong inputs, checkpoint or config, before anything is written; or an output folder
            that cannot be written.
    """
    drawings = output / "drawings"
    found = find_images(inputs, recursive, leave_out=drawings)
    open_it = open_detector if is_config(checkpoint) else open_checkpoint
    trained = open_it(checkpoint, overrides)
    config = trained.config
    device = choose_device(config.training.device)
    dtype = resolve_precision(config.training.precision, device)
    model = for_inference(trained.model.to(device), dtype)
    if compiled:
        compile_network(model, frozen=True)
    predictor = Predictor(
        model=model,
        resize=config.data.resize,
        device=device,
        dtype=dtype,
        batch_size=config.data.eval_batch_size,
        workers=config.data.workers,
        max_pixels=config.data.max_pixels,
        reduced=config.data.reduced_decoding,
    )
    detectors = [name for name, head in config.heads.items() if head.label_source() is None]
    classes = {category: i for name in detectors for i, category in enumerate(trained.labels[name].ids)}
    names = {name: info.names for name, info in trained.labels.items()}
    thresholds = thresholds_of(trained, threshold)
    make_folder(output)
    entries, skipped = [], []
    started = time.perf_counter()
    with progress_bar() as progress:
        bar = progress.add_task("predicting", total=len(found.paths), note="")
        for result, name in zip(predictor.predict_files(found.paths), found.names, strict=True):
            progress.advance(bar)
            if result.size is None:
                skipped.append({"file": result.path, "reason": result.reason})
                continue
            answers = trained.model.describe(keep(result.predictions, thresholds, names))
            answers = call_present(answers, thresholds)
            entries.append(image_entry(result.path, result.size, answers, 0.0))
            if draw:
                write_drawing(drawings / name, entries[-1], classes, config.data.max_pixels)
    seconds = time.perf_counter() - started
    content = {
        "checkpoint": checkpoint,
        "threshold": thresholds.default,
        "operating_points": thresholds.classes,
        "images": entries,
        "skipped": skipped,
        "ignored": found.ignored,
    }
    write_predictions(output / "predictions.json", content)
    write_csv(output / "predictions.csv", entries, "".join(detectors))
    rate = len(found.paths) / seconds
    print(f"{len(entries)} images answered in {duration(seconds)} ({rate:.1f} images/s), written to {output}")
    for line in summary_lines(entries):
        print(f"  {line}")
    if found.ignored:
        print(f"  {found.ignored} files ignored, which are no images")
    for entry in skipped:
        print(printable(f"  skipped {entry['file']}: {entry['reason']}"))
    return len(skipped)
