"""Videos, frame by frame, as OpenCV and its FFmpeg read and write them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from vision_mtl.errors import DataError
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.results import Result

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".mts", ".m2ts",
})
# fmt: on
FALLBACK_RATE = 25.0  # frames/s where the file does not say


def is_video(path: str) -> bool:
    """Return whether a file's name is that of a video."""
    return Path(path).suffix.lower() in VIDEO_EXTENSIONS


@dataclass(frozen=True)
class Video:
    """A video file that has at least one frame.

    Attributes:
        path: the file.
        rate: frames/s; of a file with a varying rate, the mean.
        announced: frames that the file says it has; 0 where it does not say.
    """

    path: str
    rate: float
    announced: int

    def answer(self, pipeline: Pipeline) -> Iterator[Result]:
        """Yield a result per frame, with `frame`, `seconds` and the frame's pixels; memory does not grow."""
        times: deque[float] = deque()

        def frames() -> Iterator[np.ndarray]:
            for seconds, pixels in self.frames():
                times.append(seconds)
                yield pixels

        for number, result in enumerate(pipeline.stream(frames())):
            yield replace(result, path=self.path, frame=number, seconds=round(times.popleft(), 6))

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield every frame's time in seconds and its pixels, (H, W, 3) uint8 RGB, as a person sees it."""
        capture = _opened(self.path)
        try:
            while True:
                there, pixels = capture.read()
                if not there:
                    return
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # of the frame that was read last
                yield seconds, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def open_video(path: str) -> Video:
    """Open a video and decode its first frame.

    Raises:
        DataError: no such file, or no frame can be decoded.
    """
    if not Path(path).is_file():
        raise DataError(f"no file '{path}'; expected a video")
    capture = _opened(path)
    try:
        if not capture.isOpened() or not capture.read()[0]:
            raise DataError(
                f"'{path}': no frame can be decoded; the video is damaged, or of a kind that OpenCV's FFmpeg "
                "does not read. Convert it to MP4 with H.264, or give its frames as images"
            )
        rate, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return Video(path, rate if 0 < rate < 1000 else FALLBACK_RATE, max(0, int(announced)))


def _opened(path: str) -> cv2.VideoCapture:
    # FFmpeg's own words about damaged files would stand beside our error; it reads this once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # so would OpenCV's
    try:
        return cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(before)


class VideoFile:
    """An MP4 file of frames of one size (MPEG-4 part 2, `mp4v`): it appears when the block ends well.

    Args:
        path: ends in `.mp4`.
        rate: frames/s.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        # Its extension tells OpenCV the format.
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self.writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoFile:
        return self

    def add(self, pixels: np.ndarray) -> None:
        """Append a frame, (H, W, 3) uint8 RGB; an odd side loses its last row or column, as the format wants.

        Raises:
            DataError: the file cannot be written.
        """
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        if self.writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(
                str(self.temporary), cv2.CAP_FFMPEG, code, self.rate, (width, height)
            )
            if not self.writer.isOpened():
                raise DataError(
                    f"--output: cannot write a video of {width} x {height} pixels to '{self.path}'"
                )
        self.writer.write(np.ascontiguousarray(pixels[:height, :width, ::-1]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.release()
        if error is None and self.temporary.exists():
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)
