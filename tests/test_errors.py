"""Errors of a command: one line, and the exit code."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from vision_mtl.errors import ConfigError, run_command


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Take the command's handler of signals back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def code_of(end: BaseException | int) -> int | str | None:
    """Return the exit code of a command that raises an error, or returns a number."""

    def main() -> int:
        if isinstance(end, BaseException):
            raise end
        return end

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return ended.value.code


def test_a_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(ConfigError("trunk.name: found x")) == 2
    assert capsys.readouterr().err == "error: trunk.name: found x\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(OSError(number, os.strerror(number), "page.html")) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: cannot write: [Errno {number}] {os.strerror(number)}: 'page.html'; free")
    assert text.count("\n") == 1


def test_other_failures_are_not_hidden() -> None:
    def main() -> None:
        raise OSError(errno.EBADF, "a mistake of ours")

    with pytest.raises(OSError, match="a mistake of ours"):
        run_command(main)


def test_the_code_of_a_command_is_that_of_its_process() -> None:
    assert code_of(0) == 0
    assert code_of(3) == 3
    assert code_of(KeyboardInterrupt()) == 130
