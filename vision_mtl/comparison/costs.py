"""What the networks cost: parameters, and seconds of an optimiser step and of an answer, measured in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.commands.shared import Trained, choose_device, open_checkpoint
from vision_mtl.commands.timing import Timing, measure_in_turn
from vision_mtl.commands.train import TrainingData, build_run
from vision_mtl.comparison.results import Costs, ModelCost
from vision_mtl.config import Config
from vision_mtl.data.dataset import Dataset, Source, collate
from vision_mtl.data.loader import EvaluationBatches
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision, resolve_precision
from vision_mtl.structures import Batch
from vision_mtl.training.step import optimizer_step

WARM_UP = 3  # rounds that are not counted
ROUNDS = 15  # that are
IMAGES = 8  # batches, at most, that the rounds take in turn


@dataclass(frozen=True)
class Bench:
    """The data and device that all networks are measured with.

    Attributes:
        config: of the joint model.
        train: training sources, whose order and size an optimiser is set up for.
        val: validation images, with the labels of all heads: what the networks read.
        device: where they run,
        dtype: and in what.
    """

    config: Config
    train: Sequence[Source]
    val: Source
    device: torch.device
    dtype: torch.dtype

    def batches(self, size: int) -> list[Batch]:
        """Return a few batches of validation images, of `size` images as far as there are as many alike."""
        resize = self.config.data.resize
        dataset = Dataset([self.val], resize)
        keys = EvaluationBatches(dataset.sizes(), resize, size).batches
        whole = [batch for batch in keys if len(batch) == size] or keys
        found = [collate([dataset[key] for key in batch])[0] for batch in whole[:IMAGES]]
        batches = [batch for batch in found if batch is not None]
        assert batches, "the runs were judged on these images"
        return batches


def open_bench(config: Config, train: Sequence[Source], val: Source) -> Bench:
    """Return the means to measure the networks of a config."""
    device = choose_device(config.training.device)
    return Bench(config, train, val, device, resolve_precision(config.training.precision, device))


def measure_costs(
    bench: Bench,
    alone: Mapping[str, Path],
    together: Mapping[str, Path],
    warm_up: int = WARM_UP,
    rounds: int = ROUNDS,
) -> Costs:
    """Measure all networks in one process, one call of each in every round, so that none has a better hour.

    Args:
        bench: data and device.
        alone: head -> checkpoint of its single-task model.
        together: method -> checkpoint of a joint model.
        warm_up: rounds that are not counted.
        rounds: rounds that are.

    Raises:
        CheckpointError: a checkpoint that cannot be read.
        NumericsError: a loss is not finite.
    """
    keep_freed_memory(bench.device)
    paths = [("alone", name, path) for name, path in alone.items()]
    paths += [("together", name, path) for name, path in together.items()]
    trained = {(kind, name): open_checkpoint(path) for kind, name, path in paths}
    ones, many = bench.batches(1), bench.batches(bench.config.data.eval_batch_size)
    for each in trained.values():
        each.model.to(bench.device)
    parameters = {key: sum(p.numel() for p in each.model.parameters()) for key, each in trained.items()}

    def in_turn(calls: Mapping[tuple[str, str], Callable[[int], object]]) -> dict[tuple[str, str], Timing]:
        return measure_in_turn(calls, bench.device, warm_up, rounds)

    single = in_turn({key: _answering(bench, each.model, ones) for key, each in trained.items()})
    batch = in_turn({key: _answering(bench, each.model, many) for key, each in trained.items()})
    step = in_turn({key: _stepping(bench, each) for key, each in trained.items()})
    costs = {key: ModelCost(parameters[key], step[key], single[key], batch[key]) for key in trained}
    data = bench.config.data
    return Costs(
        device=bench.device.type if bench.device.type == "cpu" else torch.cuda.get_device_name(bench.device),
        step_images=data.batch_size * bench.config.training.accumulate,
        batch_images=data.eval_batch_size,
        alone={name: cost for (kind, name), cost in costs.items() if kind == "alone"},
        together={name: cost for (kind, name), cost in costs.items() if kind == "together"},
    )


def _answering(bench: Bench, model: MultiTaskModel, batches: Sequence[Batch]) -> Callable[[int], None]:
    """Return a call that answers a batch: forward, decode, predict."""

    @torch.inference_mode()
    def answer(i: int) -> None:
        batch = batches[i % len(batches)]
        moved = batch.to(bench.device)
        with mixed_precision(bench.device, bench.dtype):
            features, outputs = model(moved.images, moved.sizes)
        model.predict(model.decode(features, outputs), batch.metas)

    return answer


def _stepping(bench: Bench, trained: Trained) -> Callable[[int], object]:
    """Return a call that takes an optimiser step, as training does; it changes the model."""
    config = trained.config
    data = TrainingData(list(bench.train), bench.val, trained.labels)
    run = build_run(config, data, trained.model, bench.device, Path())  # the folder is not written
    batches = bench.batches(config.data.batch_size)
    count = config.training.accumulate

    def step(i: int) -> None:
        run.model.train()
        optimizer_step(run, list(itertools.islice(itertools.cycle(batches), i, i + count)))

    return step
