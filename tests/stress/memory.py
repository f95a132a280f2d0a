"""Memory of loader processes: what each holds for itself does not grow from epoch to epoch.

python -m tests.stress.memory [--epochs 200] [--images 64] [--workers 2]

A process's proportional set size (PSS, `man proc_pid_smaps`) counts a page that n processes share as 1/n.
It is read after every epoch and summed over the loader processes. It is flat where the mean of the last
quarter of the epochs is at most 4 MiB a process above that of the second one; the first only warms up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.stress.evaluation_bench import annotation, draw_images
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from vision_mtl.data.config import DataConfig, ResizeConfig, SourceConfig
from vision_mtl.data.dataset import Dataset, training_dataset
from vision_mtl.data.labels import LabelSource
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.data.sources import open_sources

MIB = 2**20
GROWTH = 4 * MIB  # a process
HEADS = {"objects": None, "kind": LabelSource(kind="single", source="attribute", field="kind")}


def proportional_size(process: int) -> int:
    """Return the PSS of a process in bytes; Linux alone says so."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup without Pss")


def small_set(folder: Path, images: int) -> Dataset:
    """Return training samples of a set drawn into `folder`, with the default augmentation."""
    document = draw_images(folder / "images", images)
    document["annotations"] = [
        annotation(i + 1, image, [3, 7, 21][i % 3], [4, 4, 30, 20])
        for i, image in enumerate(document["images"])
    ]
    (folder / "set.json").write_text(json.dumps(document))
    source = SourceConfig(images="images", annotations="set.json")
    config = DataConfig(root=str(folder), train=[source], resize=ResizeConfig(shorter=64, longer=96))
    return training_dataset(config, open_sources(config, "train", HEADS), seed=0, epochs=1000)


def sizes_by_epoch(dataset: Dataset, workers: int, epochs: int, tally: Tally) -> list[int]:
    """Return the PSS of all loader processes together after each epoch, in bytes."""
    batches = TrainingBatches(dataset.sizes(), 8, seed=0)
    loader = Loader(dataset, batches, workers)
    sizes = []
    for batches.epoch in range(epochs):
        tally.progress(batches.epoch, epochs)
        for _ in loader:
            pass
        processes = loader.loader._iterator._workers
        sizes.append(sum(proportional_size(process.pid) for process in processes))
    return sizes


def growth(sizes: Sequence[int]) -> int:
    """Return the mean of the last quarter less that of the second one, in bytes."""
    quarter = max(1, len(sizes) // 4)
    before, last = sizes[quarter : 2 * quarter], sizes[-quarter:]
    return sum(last) // len(last) - sum(before) // len(before)


def watch(epochs: int, images: int, workers: int, file: Path | None = None) -> int:
    """Load a small set for so many epochs; return the exit code of the command."""
    tally = Tally(file)
    with workplace() as place:
        sizes = sizes_by_epoch(small_set(place / "set", images), workers, epochs, tally)
    grown = growth(sizes)
    if grown > GROWTH * workers:
        tally.problems.append(f"grew by {grown / MIB:.1f} MiB: {[size // MIB for size in sizes]} MiB")
    return tally.finish(
        f"{workers} loader processes over {epochs} epochs of {images} images: {sizes[-1] / MIB:.1f} MiB PSS, "
        f"{grown / MIB:+.2f} MiB from the second to the last quarter",
        mib_by_epoch=[round(size / MIB, 2) for size in sizes],
        grown_mib=round(grown / MIB, 2),
    )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--epochs", type=int, default=200, help="default: 200")
    parser.add_argument("--images", type=int, default=64, help="default: 64")
    parser.add_argument("--workers", type=int, default=2, help="default: 2")
    arguments = parser.parse_args()
    return watch(arguments.epochs, arguments.images, arguments.workers, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
