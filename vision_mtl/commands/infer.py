"""`tools/infer.py`: images to answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.commands.infer_outputs import (
    CROPS,
    DEFAULT_FORMATS,
    DRAWINGS,
    EXPLANATIONS,
    Outputs,
    check_formats,
)
from vision_mtl.commands.pipelines import open_trained, pipeline_of
from vision_mtl.commands.train import sole_user
from vision_mtl.errors import ConfigError
from vision_mtl.files import file_sha256
from vision_mtl.inference.explainer import Explainer
from vision_mtl.inference.files import Found, find_images
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.record import Record
from vision_mtl.inference.results import Result
from vision_mtl.inference.summary import Summary
from vision_mtl.inference.video import Video, is_video, open_video
from vision_mtl.inference.writers import make_folder, printable
from vision_mtl.progress import duration, progress_bar
from vision_mtl.training.interrupt import Stop, deferred_signals, leave_if

SHOWN_SKIPPED = 20


def infer_with_checkpoint(
    inputs: Sequence[str],
    checkpoint: str,
    output: Path,
    threshold: float | None,
    draw: bool,
    recursive: bool,
    overrides: Sequence[str] = (),
    compiled: bool = False,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    lists: Sequence[str] = (),
    resume: bool = False,
    ids: str | None = None,
    confidence: bool = False,
    explain: str | None = None,
    explain_class: str | None = None,
) -> int:
    """Predict files as `tools/infer.py` does; return how many could not be read.

    `threshold` is the lowest score of a detection; None for what is stored with the checkpoint.

    Raises:
        VisionMTLError: wrong inputs, checkpoint or config, before anything is written; or an output folder
            that cannot be written.
        Interrupted: SIGINT or SIGTERM came; what was answered is in predictions.jsonl.
    """
    formats = tuple(dict.fromkeys([*formats, *(["images"] if draw else [])]))
    video = find_video(inputs, lists, resume)
    check_formats(formats, ids, video)
    found = Found([], [], 0)
    if video is None:
        ours = [output / name for name in (DRAWINGS, CROPS, EXPLANATIONS)]
        found = find_images(inputs, recursive, ours, lists)
    trained = open_trained(checkpoint, overrides)
    outputs = Outputs(output, formats, trained, confidence, video=video).checked(found, ids)
    pipeline = pipeline_of(trained, threshold, compiled)
    keep_freed_memory(pipeline.device)
    explainer = None
    if explain is not None:
        explainer = Explainer(pipeline, explain, explain_class, output / EXPLANATIONS)
    settings = {
        "checkpoint": checkpoint,
        "sha256": file_sha256(Path(checkpoint)),
        "threshold": pipeline.thresholds.default,
        "operating_points": pipeline.thresholds.classes,
        "set": list(overrides),
        "inputs": list(inputs),
        "lists": list(lists),
        "recursive": recursive,
        "folder": os.getcwd(),
        "formats": list(formats),
        "ids": ids,
        "confidence": confidence,
        "explain": explain,
        "explain_class": explain_class,
    }
    make_folder(output)
    with sole_user(output), deferred_signals() as stop:
        run = InferenceRun(found, outputs, pipeline, Record(output, settings), explainer)
        return run.answer(resume, stop)


def find_video(inputs: Sequence[str], lists: Sequence[str], resume: bool) -> Video | None:
    """Return the input if it is a video, which must be the only one.

    Raises:
        ConfigError: a video among other inputs, or to be resumed.
        DataError: one that cannot be read.
    """
    videos = [name for name in inputs if is_video(name) and not Path(name).is_dir()]
    if not videos:
        return None
    if len(inputs) > 1 or lists:
        raise ConfigError(f"'{videos[0]}' is a video: expected it as the only input; run once for each video")
    if resume:
        raise ConfigError(f"--resume: '{videos[0]}' is a video, which is answered from its start")
    return open_video(videos[0])


@dataclass
class InferenceRun:
    """One run of `tools/infer.py`, when all of its input is known to be right.

    Attributes:
        found: the images; none for a video.
        outputs: what is written.
        pipeline: what answers.
        record: what is resumed.
        explainer: writes what speaks for the answers, if that is asked for.
        summary: of all lines of the record.
        unexplained: images in which it found nothing to explain.
    """

    found: Found
    outputs: Outputs
    pipeline: Pipeline
    record: Record
    explainer: Explainer | None = None
    summary: Summary = field(default_factory=Summary)
    unexplained: list[str] = field(default_factory=list)

    def answer(self, resume: bool, stop: Stop) -> int:
        """Answer all images that the record does not have, write all files and say what was found.

        Returns:
            how many files could not be read; 1 for a video that ends before it says.

        Raises:
            Interrupted: `stop` returned a signal.
        """
        done: set[str] = set()
        if resume:
            done = self.record.resume(self.summary.add)
        else:
            self.record.start(overwrite=self.outputs.video is not None)
        both = zip(self.found.paths, self.found.names, strict=True)
        todo = [(path, name) for path, name in both if path not in done]
        started, new = time.perf_counter(), 0
        skipped: list[str] = []
        total = self.outputs.video.announced if self.outputs.video else len(todo)
        with progress_bar() as progress, self.record.lines() as lines, self.outputs.film() as film:
            bar = progress.add_task("predicting", total=total or None, note="")
            for result, name in self._results(todo):
                if result.size is not None:
                    self.outputs.add(result, name, film)
                    if self.explainer and not self.explainer.write(result, name):
                        self.unexplained.append(name)
                elif len(skipped) < SHOWN_SKIPPED:
                    skipped.append(f"skipped {result.path}: {result.reason}")
                entry = result.to_dict()
                lines.add(entry)
                self.summary.add(entry)
                new += 1
                progress.advance(bar)
                if stop():
                    print(f"{len(done) + new} images are answered in {self.record.path}; --resume goes on")
                leave_if(stop)
        seconds = time.perf_counter() - started
        said = self.outputs.finish(self.record, self.summary.images, self._head())
        rate = new / seconds if new else 0.0
        self.record.finish({**self.summary.to_dict(), "seconds": seconds, "images_per_second": rate})
        missing = self._missing_frames()
        self._print([*said, *missing, *skipped, *self._nothing_explained()], new, seconds, rate)
        return self.summary.skipped + len(missing)

    def _results(self, todo: Sequence[tuple[str, str]]) -> Iterator[tuple[Result, str]]:
        """Yield the results of the files, or of all frames of the video, with the names of their pictures."""
        if self.outputs.video is not None:
            for result in self.outputs.video.answer(self.pipeline):
                yield result, f"{result.frame:06d}.jpg"
            return
        results = self.pipeline.stream([path for path, _ in todo])
        for result, (_, name) in zip(results, todo, strict=True):
            yield result, name

    def _head(self) -> dict[str, Any]:
        named = ("checkpoint", "threshold", "operating_points")
        settings = {name: self.record.settings[name] for name in named}
        return {**settings, "ignored": self.found.ignored}

    def _missing_frames(self) -> list[str]:
        """Return what there is to say of a video that ends early."""
        video, frames = self.outputs.video, self.summary.images
        if video is None or frames >= video.announced * 0.99 - 1:  # what files announce is seldom exact
            return []
        return [f"'{video.path}' announces {video.announced} frames, and {frames} could be decoded"]

    def _nothing_explained(self) -> list[str]:
        """Return what there is to say of images without an answer to explain."""
        if not self.unexplained:
            return []
        number, first = len(self.unexplained), self.unexplained[0]
        where = first if number == 1 else f"{number} of the images, the first of them {first}"
        return [f"--explain: no answer to explain in {where}"]

    def _print(self, said: Sequence[str], new: int, seconds: float, rate: float) -> None:
        what = "frames" if self.outputs.video else "images"
        before = self.summary.images + self.summary.skipped - new
        of_these = f", {new} of these now" if before else ""
        print(
            f"{self.summary.images} {what} answered{of_these} in {duration(seconds)} ({rate:.1f} {what}/s), "
            f"written to {printable(str(self.outputs.folder))}"
        )
        for line in self.summary.lines():
            print(printable(f"  {line}"))
        points = self.outputs.trained.points
        if points is not None and self.pipeline.thresholds.classes:
            print(f"  thresholds per class as stored with the checkpoint: {points.goal} on {points.split}")
        if self.found.ignored:
            print(f"  files ignored, which are no images: {self.found.ignored}")
        for line in said:
            print(printable(f"  {line}"))
        if self.summary.skipped > SHOWN_SKIPPED:
            print(f"  {self.summary.skipped} files skipped in all, listed in predictions.jsonl")
