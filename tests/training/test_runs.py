"""Whole runs on a tiny data set: train, resume, evaluate, as the tools do it."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.commands import helpers
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import CheckpointError, ConfigError, NumericsError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.regression import RegressionConfig, RegressionHead
from vision_mtl.models.multitask import ModelConfig, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ImageMeta
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint
from vision_mtl.training.config import BalancingConfig, TrainingConfig
from vision_mtl.training.optim import AveragedModel, build_optimizer, parameter_groups
from vision_mtl.training.run import Progress
from vision_mtl.training.step import optimizer_step

REPOSITORY = Path(__file__).resolve().parents[2]
HEADS = """
  objects:  {type: fcos, depth: 1, norm: group}
  kind:     {type: classification, source: attribute, field: kind}
  presence: {type: multilabel, source: boxes}
  count:    {type: regression, source: count}
"""
TRAINING = "{epochs: 2, warmup_steps: 2, log_every: 1, precision: fp32}"
write_config = partial(helpers.write_config, heads=HEADS, training=TRAINING)


@pytest.fixture(scope="module")
def trained(tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_from_config(write_config(folder, tiny_coco_root), [], folder / "run")
    return folder / "run"


def states_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_run_folder_holds_what_it_promises(trained: Path) -> None:
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "metrics.json",
        "log.txt",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    ):
        assert (trained / name).is_file(), name
    heads = json.loads((trained / "metrics.json").read_text())["heads"]
    assert {"mAP", "AP50", "AP75", "APs", "APm", "APl", "AR100"} <= heads["objects"].keys()
    assert {"accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1"} <= heads["kind"].keys()
    assert {"mAP", "accuracy", "exact_match", "CF1", "OF1"} <= heads["presence"].keys()
    assert {"MAE", "RMSE", "R2"} <= heads["count"].keys()
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 9))
    judged = [line for line in lines if line["kind"] == "val"]
    assert [line["step"] for line in judged] == [4, 8]
    assert judged[0]["losses"].keys() == {"objects", "kind", "presence", "count"}


def test_same_seed_same_run_and_resuming_changes_nothing(
    trained: Path, tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    from vision_mtl.training import engine

    judge, calls = engine.judge, []

    def stop_in_the_second(*arguments: object) -> None:
        calls.append(judge(*arguments))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "judge", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_from_config(config, [], tmp_path / "run")
    monkeypatch.undo()
    progress = load_checkpoint(tmp_path / "run/checkpoints/last.pt")["progress"]
    assert (progress["epoch"], progress["evaluate"]) == (2, True)
    train_from_config(config, ["data.workers=1"], tmp_path / "run", resume=True)
    whole, parts = (load_checkpoint(run / "checkpoints/last.pt") for run in (trained, tmp_path / "run"))
    assert states_equal(whole["model"], parts["model"])
    assert states_equal(whole["average"], parts["average"])
    for old, new in zip(
        whole["optimizer"]["state"].values(), parts["optimizer"]["state"].values(), strict=True
    ):
        assert states_equal(old, new)
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (trained, tmp_path / "run"))
    assert first["heads"] == second["heads"]
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"train"' in line] == list(range(1, 9))


def test_heads_first_leaves_the_trunk_as_it_was(tiny_coco_root: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    states = {}
    for epochs in (1, 2):
        overrides = [f"training.epochs={epochs}", "training.heads_first_epochs=1"]
        train_from_config(config, overrides, tmp_path / f"run{epochs}")
        states[epochs] = load_checkpoint(tmp_path / f"run{epochs}" / "checkpoints" / "last.pt")
    fresh = open_checkpoint(tmp_path / "run1/checkpoints/last.pt")
    torch.manual_seed(fresh.config.training.seed)
    start = build_model(fresh.config.model(), fresh.labels).state_dict()
    trunk = [key for key in start if key.startswith("trunk.")]
    assert all(torch.equal(states[1]["model"][key], start[key]) for key in trunk)
    assert not all(torch.equal(states[2]["model"][key], start[key]) for key in trunk)
    for head in fresh.config.heads:
        keys = [key for key in start if key.startswith(f"heads.{head}.")]
        assert not all(torch.equal(states[1]["model"][key], start[key]) for key in keys), head


@pytest.mark.parametrize(
    ("head", "trunk"),
    [
        ("{type: retinanet, depth: 1, anchor_scale: 2}", "{name: resnet18, channels: 64}"),
        (
            "{type: faster_rcnn, proposals: 50, proposals_train: 50}",
            "{name: resnet18, channels: 32, finest: 2, extra: p6}",
        ),
    ],
)
def test_every_detector_trains_beside_label_heads_and_is_judged_alike_twice(
    tiny_coco_root: Path, tmp_path: Path, head: str, trunk: str
) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    overrides = [f"heads.objects={head}", f"trunk={trunk}", "training.epochs=1"]
    best = train_from_config(config, overrides, tmp_path / "run")
    assert best["heads"]["objects"]["mAP"] is not None
    again = evaluate_checkpoint(str(tmp_path / "run/checkpoints/best.pt"), [], "val", tmp_path / "again")
    assert again["heads"] == best["heads"]
    assert again["losses"] == pytest.approx(best["losses"], rel=1e-5)


def test_resuming_with_another_config_shows_the_difference(trained: Path) -> None:
    with pytest.raises(CheckpointError, match=r"training\.lr: 0\.001 -> 0\.5"):
        train_from_config(str(trained / "config.yaml"), ["training.lr=0.5"], trained, resume=True)


def test_a_folder_that_holds_a_run_is_refused(trained: Path) -> None:
    before = (trained / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        train_from_config(str(trained / "config.yaml"), ["training.lr=0.5"], trained)
    assert (trained / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(("best", "hint"), [("kind.acuracy", "accuracy"), ("objects.map", "mAP")])
def test_a_metric_that_a_head_has_not_is_refused_first(
    best: str, hint: str, tiny_coco_root: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    with pytest.raises(ConfigError, match=rf"evaluation\.best: head .* has no metric .*Known: .*{hint}"):
        train_from_config(config, [f"evaluation.best={best}"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(
    tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE: found 2, expected 1"):
        train_from_config(write_config(tmp_path, tiny_coco_root), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_best_is_chosen_by_the_named_metric(tiny_coco_root: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    best = train_from_config(config, ["evaluation.best=count.MAE"], tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    errors = [line["heads"]["count"]["MAE"] for line in lines if line["kind"] == "val"]
    assert best["heads"]["count"]["MAE"] == min(errors)


def test_nothing_to_resume_is_said(tiny_coco_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"):
        train_from_config(write_config(tmp_path, tiny_coco_root), [], tmp_path / "none", resume=True)


def test_evaluate_repeats_the_metrics_and_pycocotools_agrees(
    trained: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    metrics = evaluate_checkpoint(str(trained / "checkpoints/best.pt"), [], "val", tmp_path)
    assert metrics["heads"] == json.loads((trained / "metrics.json").read_text())["heads"]
    annotations = tiny_coco_root / "annotations.json"
    helpers.assert_pycocotools_agrees(metrics, annotations, tmp_path / "detections.json")


def test_workers_and_batch_order_do_not_change_a_number(trained: Path, tmp_path: Path) -> None:
    checkpoint = str(trained / "checkpoints/best.pt")
    alone = evaluate_checkpoint(checkpoint, ["data.workers=0"], "val", tmp_path / "a")
    two = evaluate_checkpoint(checkpoint, ["data.workers=2"], "val", tmp_path / "b")
    assert alone["heads"] == two["heads"]


def test_a_network_that_does_not_fit_is_refused(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        open_checkpoint(trained / "checkpoints/best.pt", ["trunk.channels=64"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_answer_nothing(trained: Path, tmp_path: Path, value: float) -> None:
    state = load_checkpoint(trained / "checkpoints/best.pt")
    state["average"]["heads.objects.regression_head.bbox_reg.weight"].fill_(value)
    save_checkpoint(state, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt' has .* not finite \(1, first .*bbox_reg\.weight"):
        evaluate_checkpoint(str(tmp_path / "best.pt"), [], "val", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_overflow_in_an_evaluation_are_named(trained: Path, tmp_path: Path) -> None:
    state = load_checkpoint(trained / "checkpoints/best.pt")
    state["average"]["heads.objects.regression_head.bbox_reg.weight"].fill_(3e38)
    save_checkpoint(state, tmp_path / "best.pt")
    with pytest.raises(NumericsError, match=r"the loss of objects is not finite on images \[1\d, 1\d\]"):
        evaluate_checkpoint(str(tmp_path / "best.pt"), [], "val", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = RegressionHead.loss

    def poisoned(*arguments: object) -> dict[str, torch.Tensor]:
        return {name: term * float("nan") for name, term in loss(*arguments).items()}

    monkeypatch.setattr(RegressionHead, "loss", poisoned)
    with pytest.raises(
        NumericsError, match=r"loss of count is not finite, on images \[\d+, \d+\], at step 0"
    ):
        train_from_config(write_config(tmp_path, tiny_coco_root), [], tmp_path / "run")
    assert not (tmp_path / "run/checkpoints/best.pt").exists()


def test_early_stopping(tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vision_mtl.training import engine

    scores = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(engine, "headline", lambda *_: next(scores))
    config = write_config(tmp_path, tiny_coco_root)
    train_from_config(config, ["training.epochs=9", "training.patience=2"], tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["progress"]["epoch"] == 3
    assert load_checkpoint(tmp_path / "run/checkpoints/best.pt")["progress"]["epoch"] == 1


def test_accumulation_equals_one_large_batch() -> None:
    # Per-image losses and no batch statistics: two batches of two are one batch of four.
    labels = {"size": LabelInfo()}
    heads = {"size": RegressionConfig(source="csv", file="sizes.csv", column="size")}
    config = ModelConfig(trunk=TrunkConfig(name="resnet18", norm="group", channels=32), heads=heads)
    images = torch.randint(
        0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    targets = torch.tensor([1.0, -2.0, 3.0, 0.5])

    def batch(rows: list[int]) -> Batch:
        count = len(rows)
        return Batch(
            images=images[rows],
            sizes=torch.tensor([[64, 64]] * count),
            boxes=torch.zeros(count, 0, 4),
            classes=torch.zeros(count, 0, dtype=torch.int64),
            ignore=torch.zeros(count, 0, dtype=torch.bool),
            has_boxes=torch.ones(count, dtype=torch.bool),
            labels={"size": targets[rows]},
            metas=[ImageMeta(row, "", (64, 64), (1.0, 1.0)) for row in rows],
        )

    def weights_after(batches: list[Batch]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(config, labels)
        training = TrainingConfig(optimizer="sgd", lr=0.01)
        balancer = Balancer(BalancingConfig(), {"size": 1.0})
        run = SimpleNamespace(
            model=model,
            balancer=balancer,
            training=training,
            optimizer=build_optimizer(parameter_groups(model, balancer, training, {"size": 1.0}), training),
            average=AveragedModel(model, 0.9),
            progress=Progress(),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        optimizer_step(run, batches)
        return model.state_dict()

    parts, whole = weights_after([batch([0, 1]), batch([2, 3])]), weights_after([batch([0, 1, 2, 3])])
    start = build_model(config, labels).state_dict()
    assert any(not torch.equal(whole[key], start[key]) for key in whole)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tool", ["train.py", "evaluate.py"])
def test_a_wrong_path_ends_with_code_2_and_one_line(tool: str, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / tool), str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
