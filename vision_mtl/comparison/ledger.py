"""The results file as a ledger: what it holds is not run again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from vision_mtl.comparison.results import Outcome, Results, Trial
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.files import whole
from vision_mtl.progress import duration
from vision_mtl.training.run import differences

logger = logging.getLogger(__name__)

Train = Callable[[Trial, Path | None], Outcome]  # a trial, and the weights that it starts from


class Ledger:
    """Finished trainings, and how to get one that is not yet there.

    Args:
        path: JSON file, made with the first run.
        header: what the file says of command, machine, versions and config.
        train: runs a trial.

    Raises:
        ConfigError: the file is another one, or holds runs of another config.
    """

    def __init__(self, path: Path, header: Results, train: Train) -> None:
        self.path, self.results, self.train = path, header, train
        if not path.exists():
            return
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Results)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"--results '{path}' is not a file of this command: {error}") from error
        plain = msgspec.json.decode(msgspec.json.encode(header.tree))
        if changed := sorted(differences(known.tree, plain)):
            raise ConfigError(
                f"--results '{path}' holds runs of another config: {'; '.join(changed[:10])}. Give the same "
                "config and data, or another --output"
            )
        known.commands += [command for command in header.commands if command not in known.commands]
        self.results = known

    def find(self, trial: Trial) -> Outcome | None:
        """Return the trial's outcome if it was run before."""
        return next((run for run in self.results.runs if run.trial == trial), None)

    def run(self, trial: Trial, make_weights: Callable[[], Path] | None = None) -> Outcome:
        """Return the trial's outcome, from the file or by running it and writing the file.

        Args:
            trial: what to run.
            make_weights: returns the checkpoint that it starts from; called only if it has to run.
        """
        if (known := self.find(trial)) is not None:
            return known
        logger.info("next: %s", trial.name())
        outcome = self.train(trial, make_weights() if make_weights else None)
        self.results.runs.append(outcome)
        self.write()
        if outcome.diverged is None:
            assert outcome.training_seconds is not None
            logger.info("%s: finished, %s of training", trial.name(), duration(outcome.training_seconds))
        else:
            logger.warning("%s: diverged: %s", trial.name(), outcome.diverged)
        return outcome

    def write(self) -> None:
        """Write the file, whole or not at all; raise DataError where that cannot be."""
        try:
            with whole(self.path) as file:
                file.write_bytes(msgspec.json.format(msgspec.json.encode(self.results), indent=1) + b"\n")
        except OSError as error:
            raise DataError(f"cannot write '{self.path}': {error}") from error
