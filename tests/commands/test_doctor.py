"""The doctor's findings on facts that are given to it, and on the machine that runs the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vision_mtl.commands import doctor, doctor_facts
from vision_mtl.commands.doctor import Check

ROOT = Path(__file__).resolve().parents[2]
HEADLESS = {"opencv-python-headless": "5.0"}
TIMES = {("fp32", "NCHW"): 2.0, ("fp32", "NHWC"): 1.0, ("bf16", "NCHW"): 3.0, ("bf16", "NHWC"): 0.6}


def refuse(folder: Path) -> None:
    raise PermissionError(13, "Permission denied")


def accept(folder: Path) -> None:
    pass


GOOD = [
    doctor.check_python((3, 10)),
    doctor.check_packages(["a>=1", "b_c<3,>=2", "d; extra == 'test'"], {"a": "1.0", "b-c": "2.5"}),
    doctor.check_opencv(HEADLESS),
    doctor.check_pycocotools(lambda a, b, crowd: [[1 / 3]]),
    doctor.check_gpu(["H200"], has_driver=True),
    doctor.check_gpu([], has_driver=False),
    doctor.check_speed(TIMES, "bf16"),
    doctor.check_shared_memory(2**30),
    doctor.check_shared_memory(None),
    doctor.check_disk({"here": 3 * 2**30}),
    doctor.check_cache(Path("cache"), accept),
    doctor.check_training(lambda seconds: (20, 1.0, 0.5)),
]
BAD = [
    (doctor.check_python((3, 9)), "3.9", "Python 3.10 or newer"),
    (doctor.check_packages(["a>=1", "b>=2"], {"a": "0.9"}), "a 0.9, b missing", "install 'a>=1' 'b>=2'"),
    (doctor.check_opencv({}), "none", "install opencv-python-headless"),
    (
        doctor.check_opencv({**HEADLESS, "opencv-python": "4.12"}),
        "opencv-python 4.12, opencv-python-headless 5.0",
        "uninstall -y opencv-python opencv-python-headless && python -m pip install opencv-python-headless",
    ),
    (doctor.check_pycocotools(lambda a, b, crowd: [[1.0]]), "IoU 1.000", "--force-reinstall pycocotools"),
    (doctor.check_gpu([], has_driver=True), "none, but", "torch built for CUDA"),
    (doctor.check_speed({**TIMES, ("bf16", "NHWC"): 1.6}, "bf16"), "bf16 NHWC 1.6 ms", "precision=fp32"),
    (doctor.check_shared_memory(64 * 2**20), "64 MiB", "data.workers=0"),
    (doctor.check_disk({"here": 2**30, "there": 2**40}), "1.0 GiB free in here", "space in here,"),
    (doctor.check_cache(Path("cache"), refuse), "cache: Permission denied", "VISION_MTL_CACHE"),
    (doctor.check_training(lambda seconds: (1, 1.0, float("nan"))), "loss nan", "precision=fp32"),
    (doctor.check_training(lambda seconds: (0, 10.0, float("nan"))), "0 steps", "precision=fp32"),
]


@pytest.mark.parametrize("check", GOOD, ids=lambda check: check.name)
def test_nothing_to_mend(check: Check) -> None:
    assert check.ok
    assert check.cure == ""


@pytest.mark.parametrize(("check", "found", "cure"), BAD)
def test_a_failure_has_its_cure(check: Check, found: str, cure: str) -> None:
    assert not check.ok
    assert found in check.found
    assert cure in check.cure


def test_operators() -> None:
    import torch

    assert doctor.check_operators(lambda boxes, scores, threshold: torch.tensor([0, 2])).ok
    wrong = doctor.check_operators(lambda boxes, scores, threshold: torch.tensor([0, 1, 2]))
    assert "of one release" in wrong.cure


def test_an_exception_is_a_finding() -> None:
    def broken() -> Check:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    (finding,) = doctor.examine({"operators": broken})
    assert finding == Check(
        "operators", False, "RuntimeError: operator torchvision::nms does not exist", doctor.REINSTALL
    )


def test_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: Check("a", True, "[bold]as it is")})
    assert doctor.run_doctor() == 0
    assert "[bold]as it is" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: Check("a", False, "broken", "mend it")})
    assert doctor.run_doctor() == 1
    assert "mend it" in capsys.readouterr().out


def test_facts_of_this_machine() -> None:
    installed = doctor_facts.installed_packages()
    assert {"torch", "opencv-python-headless", "msgspec"} <= installed.keys()
    assert any(requirement.startswith("torch>=") for requirement in doctor_facts.requirements())
    assert all(size > 0 for size in doctor_facts.free_space().values())
    steps, _, loss = doctor_facts.train_a_little(0.01)
    assert steps == 1
    assert loss > 0
    assert doctor_facts.chosen_format() in ("fp32", "bf16")


def test_it_does_not_need_torch_to_say_that_torch_is_broken() -> None:
    code = "import sys; import vision_mtl.commands.doctor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
