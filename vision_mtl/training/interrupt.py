"""SIGTERM and SIGINT: work that must not be torn apart ends at its next seam."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vision_mtl.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Stop = Callable[[], int]  # the signal that came; 0 for none


def never() -> int:
    """Return that no signal came."""
    return 0


@contextmanager
def deferred_signals() -> Iterator[Stop]:
    """Take note of the first signal instead of being ended by it; a second one ends the process at once.

    Outside the main thread, where no handlers can be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    came = 0

    def note(number: int, _: FrameType | None) -> None:
        nonlocal came
        if came:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_if(stop: Stop, save: Callable[[], None] | None = None) -> None:
    """Raise Interrupted if a signal came, after saving."""
    if number := stop():
        if save is not None:
            save()
        raise Interrupted(number)
