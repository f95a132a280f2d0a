"""`predictions.jsonl`: a line per image as soon as it is answered, from which everything else is made.

A process may be killed at any moment: what is lost is at most the line that is being written, which is cut
when the run is resumed, and that image is answered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from vision_mtl.errors import DataError
from vision_mtl.inference.results import Entry
from vision_mtl.inference.writers import write_json

BLOCK = 2**16


class Record:
    """The lines of a run, and `inference.json` beside them, which says what they are answers to.

    Attributes:
        path: `predictions.jsonl`.
        settings: what decides the answers: checkpoint, threshold, inputs, ...
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path, self.about = folder / "predictions.jsonl", folder / "inference.json"
        self.settings = settings

    def start(self, overwrite: bool = False) -> None:
        """Begin with no line.

        Args:
            overwrite: also where an interrupted run would be lost.

        Raises:
            DataError: the folder holds an interrupted run, or cannot be written to.
        """
        known = self._known()
        if known and not known["finished"] and not overwrite and self.path.exists():
            raise DataError(
                f"'{self.path.parent}' holds an interrupted run; give --resume to go on with it, or remove "
                f"'{self.path}' to start anew"
            )
        try:
            self.path.unlink(missing_ok=True)  # first: old lines are never found below new settings
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._note({"finished": False})
        self.path.touch()

    def resume(self, note: Callable[[Entry], None]) -> set[str]:
        """Go on with the lines that are there; begin where there are none.

        Args:
            note: gets every line.

        Returns:
            the files that they are about.

        Raises:
            DataError: the lines are answers to other settings, or damaged elsewhere than at their end.
        """
        known = self._known()
        if known is None or not self.path.exists():
            self.start(overwrite=True)
            return set()
        changed = [
            f"{name} was {known['settings'].get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if known["settings"].get(name) != value
        ]
        if changed:
            raise DataError(
                f"--resume: '{self.path.parent}' holds answers of another run: {'; '.join(changed)}. Repeat "
                "its command, or choose another --output"
            )
        try:
            cut_torn_line(self.path)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._note({"finished": False})
        files = set()
        for entry in self.entries():
            files.add(entry["file"])
            note(entry)
        return files

    def finish(self, summary: dict[str, Any]) -> None:
        """Say that the run is complete, and what came out."""
        self._note({"finished": True, "summary": summary})

    def lines(self) -> Lines:
        """Return what appends lines; a context manager."""
        return Lines(self.path)

    def entries(self) -> Iterator[Entry]:
        """Yield what the lines say, those of unreadable files included, which have a `reason`.

        Raises:
            DataError: a line that is no image's.
        """
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = json.loads(line)
                    entry["file"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{self.path}, line {number}: found {line[:40]!r}, expected an image's answers; "
                        "remove the line to have the image answered again"
                    ) from error
                yield entry

    def answered(self) -> Iterator[Entry]:
        """Yield the lines of images that could be read."""
        return (entry for entry in self.entries() if "reason" not in entry)

    def _known(self) -> dict[str, Any] | None:
        """Return what `inference.json` says; None where there is none."""
        if not self.about.exists():
            return None
        try:
            known = json.loads(self.about.read_text(encoding="utf-8"))
            if isinstance(known["finished"], bool) and isinstance(known["settings"], dict):
                return dict(known)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise DataError(f"'{self.about}' is damaged; remove it, or choose another --output")

    def _note(self, state: dict[str, Any]) -> None:
        write_json(self.about, {"settings": self.settings, **state})


class Lines:
    """Appends lines, each handed to the system whole, so that a kill leaves at most one torn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file: FileIO = path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, entry: Entry) -> None:
        """Append an image's answers; bytes of a file name that are no UTF-8 become escapes."""
        text = json.dumps(entry, allow_nan=False, ensure_ascii=False) + "\n"
        data = text.encode("utf-8", "backslashreplace")
        try:
            written = self.file.write(data)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if written != len(data):
            raise DataError(f"--output: '{self.path}' is cut off; free some space and go on with --resume")


def cut_torn_line(path: Path) -> None:
    """Shorten a file to its last line break: what follows is a line of which the writing was cut off."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            if (at := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + at + 1
                break
            end = start
        file.truncate(end)


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(f"--output: cannot write '{path}': {error.strerror or error}")
