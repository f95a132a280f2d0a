"""Functions in processes of their own: what they take is then nobody else's, memory above all."""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from vision_mtl.errors import VisionMTLError

ROOT = Path(__file__).resolve().parents[2]
KIB = 1024
MB = 1e6
Call = Callable[[int], object]
Apart = Callable[..., AbstractContextManager[Call]]
START = "import sys; from vision_mtl.benchmark.process import answer; answer(*sys.argv[1:])"


class Usage(msgspec.Struct, frozen=True):
    """What a function took: seconds, and megabytes (1e6 bytes) beyond what the process held before."""

    seconds: float
    megabytes: float


def measured(call: Callable[[], object]) -> Usage:
    """Call a function once; return its seconds and by how much the process grew at its largest.

    The peak is the kernel's high-water mark, set back first. `ru_maxrss` would not do: a new process takes
    it over from the one that started it.
    """
    before = _start_peak()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return Usage(seconds, max(0, _status("VmHWM") - before) * KIB / MB)


def _start_peak() -> int:
    """Set the high-water mark back to what is resident now, and return that, in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise VisionMTLError(
            f"memory cannot be measured: {error}; expected Linux's /proc/self/clear_refs. Run the other parts"
        ) from error
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def private_dirty() -> float:
    """Return the megabytes of this process that no other shares and that cannot be dropped."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) * KIB / MB


def dirtied_by_fork(touch: Callable[[], object]) -> float:
    """Return the megabytes of its own that a forked process gets by calling `touch`.

    What it shares with this process, or maps from a file, is not its own.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def work(connection: Connection) -> None:
        before = private_dirty()
        touch()
        connection.send(max(0.0, private_dirty() - before))

    child = context.Process(target=work, args=(sending,))
    child.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        child.join()


def in_fresh_process(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of a module in a new interpreter and return its answer.

    Args:
        function: importable by its module and name; its answer is made of JSON's types or a struct, which is
            returned as plain types.
        arguments: of JSON's types.

    Raises:
        VisionMTLError: it failed; what it printed is on the terminal.
    """
    name = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-c", START, name, msgspec.json.encode(arguments).decode()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        raise VisionMTLError(
            f"{function.__name__} ended with code {done.returncode} in a process of its own; -9 says that "
            "memory ran out, other reasons are printed above"
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1])


@contextmanager
def apart(make: Callable[..., Call], *arguments: Any) -> Iterator[Call]:
    """Yield a call whose work a new interpreter does, the same one each time; it ends with the context.

    Args:
        make: importable; returns the call, there.
        arguments: of `make`, picklable.

    Raises:
        VisionMTLError: it failed; what it printed is on the terminal.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()

    def wait() -> None:
        try:
            here.recv()
        except EOFError as error:
            raise VisionMTLError(
                f"{make.__name__} ended in a process of its own; the reason is printed above, "
                "unless memory ran out"
            ) from error

    def call(i: int) -> None:
        here.send(i)
        wait()

    try:
        wait()
        yield call
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, make: Callable[..., Call], arguments: tuple[Any, ...]) -> None:
    call = make(*arguments)
    connection.send(None)
    while True:
        try:
            i = connection.recv()
        except EOFError:  # the other side is done
            return
        call(i)
        connection.send(None)


def answer(name: str, arguments: str) -> None:
    """Call the function of that name and print its answer as the last line, in JSON."""
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)(**msgspec.json.decode(arguments))
    print("\n" + msgspec.json.encode(found).decode())
