"""The errors that users see, and the one place where a command turns them into a message.

Nothing here imports torch: tools wrap their `main` in `run_command` before heavy imports happen.
"""

from __future__ import annotations

import difflib
import errno
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a disk that takes nothing more


class VisionMTLError(Exception):
    """Something outside the program is wrong: a file, a setting, a checkpoint.

    The message names the file, the place in it, what was found, what was expected and what to do.
    Commands print it without a traceback and exit with code 2.
    """


class ConfigError(VisionMTLError):
    """A configuration that cannot be used."""


class DataError(VisionMTLError):
    """Annotations, labels or images that cannot be used."""


class CheckpointError(VisionMTLError):
    """A checkpoint that cannot be read or does not fit."""


class NumericsError(VisionMTLError):
    """A loss or a prediction that is not finite."""


class Interrupted(BaseException):
    """A signal asks the command to end; its number is the only argument. No `Exception`, so that nothing on
    the way takes it for a failure."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known word, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code.

    It is 2 for a `VisionMTLError` or a disk that is full or read-only, and 128 + its number for a signal: by
    itself SIGTERM would end Python on the spot, with its loader processes left behind.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, end)
    try:
        sys.exit(main() or 0)
    except VisionMTLError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output, `head` for one, has gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # where no part of the program says more
        if error.errno not in FULL:
            raise
        sys.stdout.flush()
        print(
            f"error: cannot write: {error}; free some space, or choose another --output or VISION_MTL_CACHE",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Interrupted as stop:
        print(f"ended by {signal.Signals(stop.args[0]).name}", file=sys.stderr)
        sys.exit(128 + stop.args[0])
