"""Which images form a batch, in which order, and the processes that load them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vision_mtl.data.config import DataConfig, ResizeConfig
from vision_mtl.data.dataset import Dataset, Key, Sample, collate, padded
from vision_mtl.data.images import BadImageError
from vision_mtl.data.sampling import draw_images, epoch_length, repeat_factors, source_factors
from vision_mtl.data.window import target_size
from vision_mtl.errors import DataError
from vision_mtl.structures import Batch

CURE = (
    "Most often memory ran out, or shared memory (/dev/shm; in a container: --shm-size=8g or --ipc=host). "
    "Try data.workers=0, or fewer workers and a smaller data.prefetch."
)


class TrainingBatches:
    """Shuffled batches of images of like shape; the order is a pure function of (seed, epoch).

    Landscape and portrait images are batched apart, so that little is padding. What is left over in each
    group is batched together, and an incomplete last batch is dropped unless it is the only one.

    Args:
        sizes: (I, 2), height and width of the images.
        batch_size: images per batch.
        seed: run seed.
        factors: (I,) mean number of times that an epoch shows each image, more than 0; None for exactly
            once.
    """

    def __init__(
        self, sizes: np.ndarray, batch_size: int, seed: int, factors: np.ndarray | None = None
    ) -> None:
        self.portrait = sizes[:, 0] > sizes[:, 1]
        self.batch_size, self.seed, self.factors = batch_size, seed, factors
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        images = len(self.portrait) if self.factors is None else epoch_length(self.factors)
        return max(1, images // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the batches of the current epoch, from batch `start` on."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch]))
        if self.factors is None:
            order = generator.permutation(len(self.portrait))
        else:
            order = draw_images(self.factors, generator)
        size = self.batch_size
        groups = [order[self.portrait[order] == shape] for shape in (False, True)]
        batches = [group[i : i + size] for group in groups for i in range(0, len(group) - size + 1, size)]
        rest = np.concatenate([group[len(group) // size * size :] for group in groups])
        batches += [rest[i : i + size] for i in range(0, len(rest) - size + 1, size)] or (
            [rest] if not batches else []
        )
        for b in generator.permutation(len(batches))[self.start :]:
            yield [(int(i), self.epoch, int(b) * size + k) for k, i in enumerate(batches[b])]


def shown_per_epoch(data: DataConfig, dataset: Dataset) -> np.ndarray | None:
    """Return the mean number of times that an epoch shows each image, (len(dataset),) float64.

    None for exactly once, where the config neither repeats nor weighs sources nor rare categories.

    Args:
        data: the config.
        dataset: of its training sources.
    """
    repeats = [source.repeat for source in data.train]
    weights = [source.weight for source in data.train if source.weight is not None]
    if not (data.repeat_threshold or weights or any(repeat > 1 for repeat in repeats)):
        return None
    counts = [len(source.positions) for source in dataset.sources]
    rare = (
        repeat_factors(*dataset.object_classes(), len(dataset), data.repeat_threshold)
        if data.repeat_threshold
        else np.ones(len(dataset))
    )
    return source_factors(counts, repeats, weights or None, rare)


class EvaluationBatches:
    """Every image once, in batches of equal padded size, formed once."""

    def __init__(self, sizes: np.ndarray, resize: ResizeConfig, batch_size: int) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, (height, width) in enumerate(sizes.tolist()):
            groups.setdefault(tuple(padded(s) for s in target_size(height, width, resize)), []).append(i)
        self.batches = [
            [(i, 0, i) for i in group[k : k + batch_size]]
            for _, group in sorted(groups.items())
            for k in range(0, len(group), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


@dataclass(frozen=True)
class Parcel:
    """What `collate` returns, on its way from a loader process: it arrives as the plain pair.

    The images travel as a handle of shared memory. So would every other tensor, at a file and a connection
    each, for a few hundred bytes: they go through the pipe, as arrays.
    """

    batch: Batch | None
    bad: list[BadImageError]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.batch is None:
            return _unpacked, (None, None, self.bad)
        parts = {field.name: getattr(self.batch, field.name) for field in fields(Batch)}
        images = parts.pop("images")
        return _unpacked, (images, _each(parts, Tensor, Tensor.numpy), self.bad)


def pack(samples: Sequence[Sample | BadImageError]) -> Parcel:
    """Collate samples in a loader process."""
    return Parcel(*collate(samples))


def _unpacked(
    images: Tensor | None, parts: dict[str, Any] | None, bad: list[BadImageError]
) -> tuple[Batch | None, list[BadImageError]]:
    if images is None:
        return None, bad
    return Batch(images=images, **_each(parts, np.ndarray, torch.from_numpy)), bad


def _each(value: Any, kind: type, change: Any) -> Any:
    """Return the value with everything of a kind in it changed, in dictionaries too."""
    if isinstance(value, dict):
        return {name: _each(part, kind, change) for name, part in value.items()}
    return change(value) if isinstance(value, kind) else value


def default_workers() -> int:
    """Return loader processes for this machine: one per processor but one, at least 1, at most 8."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available - 1))


def start_worker(worker: int) -> None:
    """Keep a loader process to one thread: several would fight with the training threads.

    Ctrl-C and the SIGTERM of a scheduler reach every process of the group; the main one decides, and ends
    its workers. What the decoding libraries print about damaged files is dropped: the file and the reason
    reach the main process as a `BadImageError`, and other exceptions do so too.
    """
    del worker
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    gc.freeze()  # a collection writes to every inherited object, and so copies the pages that are shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End the process at a SIGTERM of its parent alone.

    Simply ignoring the signal would make the main process wait for ever at its exit, where multiprocessing
    terminates what still runs and then joins it.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def check_locks(workers: int) -> None:
    """Raise DataError where the locks of `workers` loader processes cannot be made.

    They are small files in shared memory. torch, where it can make some of them only, leaves half a loader
    behind, whose end is a traceback on the terminal.
    """
    queues: list[Any] = []
    try:
        queues.extend(multiprocessing.Queue() for _ in range(workers + 4))  # one each, and what all share
    except OSError as error:
        raise DataError(f"loader processes could not be started ({error}). {CURE}") from error
    finally:
        for queue in queues:
            queue.close()


class Loader:
    """Batches from worker processes.

    Args:
        dataset: samples by key.
        batches: the keys of each batch.
        workers: processes; 0 loads in this one, None chooses.
        prefetch: batches that each worker prepares ahead.
        skip_bad: leave out images that cannot be read (counted in `skipped`) instead of stopping.

    Attributes:
        skipped: path -> why it cannot be read.
        taken: batches of the last pass so far, those of which no image can be read included.

    Raises (while iterating):
        BadImageError: an image cannot be read and `skip_bad` is off.
        DataError: no image could be read, or a worker process died.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: TrainingBatches | EvaluationBatches,
        workers: int | None = None,
        prefetch: int = 3,
        skip_bad: bool = False,
    ) -> None:
        workers = default_workers() if workers is None else workers
        # Before any fork: a child that inherits a started OpenCV thread pool waits for it for ever.
        cv2.setNumThreads(1)
        self.batches = batches
        self.skip_bad = skip_bad
        self.skipped: dict[str, str] = {}
        self.taken = 0
        self.loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=pack if workers else collate,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # a pass draws a number; not from what the network draws from
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; with `skip_bad` a batch of which no image can be read is left out too."""
        read, bad, self.taken = 0, [], 0
        if self.loader.num_workers and self.loader._iterator is None:
            check_locks(self.loader.num_workers)
        try:
            for batch, bad in self.loader:
                self.taken += 1
                self._note(bad)
                if batch is not None:
                    read += 1
                    yield batch
        except RuntimeError as error:
            if not re.search(r"DataLoader worker \(pid|\(shm\)|shared memory", str(error)):
                raise
            raise DataError(f"a loader process died ({_cause(error)}). {CURE}") from error
        if bad and not read:
            raise DataError(f"no image of any batch could be read; the last one: {bad[-1]}")

    def _note(self, bad: Sequence[BadImageError]) -> None:
        if bad and not self.skip_bad:
            raise bad[0]
        self.skipped.update((error.path, error.reason) for error in bad)


def _cause(error: RuntimeError) -> str:
    """Return the line that says why: the first, or below "Caught RuntimeError in" the last."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines[0].startswith("Caught") else lines[0]
