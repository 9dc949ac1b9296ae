"""The log of a rate search: what each try cost and scored, kept in a file as it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import PoolError
from negmerge_kit.lab.provenance import short_digest
from negmerge_kit.outside import read_json
from negmerge_kit.types import Json


@dataclass(frozen=True)
class Trial:
    """One rate that was tried.

    Attributes:
        score: on validation, smaller is better; None where it diverged.
        seconds: of the unlearning and of its scoring on validation, as a scale search is charged.
        status: "ok", or "diverged": never chosen.
        reason: why it diverged.
    """

    rate: float
    score: float | None
    seconds: float
    steps: int
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class ChosenRate:
    """The outcome of a search: the chosen rate, and what every try cost.

    Attributes:
        dial: what the rate is: a learning rate, or influence's alpha.
        scored_by: what the score is, in the caller's words.
        chosen: the trial with the smallest score; of several, the one with the smallest rate.
        trials: all of them, by rate.
    """

    baseline: str
    dial: str
    epochs: int
    seed: int
    params: Mapping[str, object]
    scored_by: str
    chosen: Trial
    trials: tuple[Trial, ...]

    @property
    def seconds(self) -> float:
        """What the search is charged: the time of every trial, the diverged ones too."""
        return sum(trial.seconds for trial in self.trials)

    def json(self) -> Json:
        """Plain values for a log or a table."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials], "seconds": self.seconds}


STATE = "unfinished.safetensors"
"""How the state files of trials end."""


class TrialLog:
    """Trials by rate; with a folder, also in the file `BASELINE-DIGEST.json`, written anew after each.

    Args:
        folder: where the file is; None keeps the trials in memory only.
        baseline: its name.
        made_from: everything that decides a trial's outcome but its rate.
        anew: look at nothing that was kept before, and replace it.

    Raises:
        PoolError: if the file cannot be read as this log.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     TrialLog(Path(folder), "scrub", {"seed": 0}).add(Trial(0.1, 0.5, 2.0, 30))
    ...     TrialLog(Path(folder), "scrub", {"seed": 0})[0.1].score, 0.1 in TrialLog(Path(folder), "scrub", {"seed": 1})
    (0.5, False)
    """

    def __init__(self, folder: Path | None, baseline: str, made_from: Json, *, anew: bool = False) -> None:
        self.made_from, self.trials, self.path = made_from, dict[float, Trial](), None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{baseline}-{short_digest(made_from)}.json"
        if anew:
            for state in folder.glob(f"{self.path.stem}-*.{STATE}"):
                state.unlink(missing_ok=True)
        if self.path.exists() and not anew:
            try:
                told = [Trial(**values) for values in read_json(self.path, dict)["trials"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PoolError(
                    f"{self.path} is no log of a rate search ({error}): delete it, and search again."
                ) from None
            self.trials = {trial.rate: trial for trial in told}

    def state_file(self, rate: float) -> Path | None:
        """Where a trial that goes on where it was stopped keeps its state; whoever saves its weights removes it."""
        return self.path and self.path.with_name(f"{self.path.stem}-{rate:g}.{STATE}")

    def __contains__(self, rate: float) -> bool:
        return rate in self.trials

    def __getitem__(self, rate: float) -> Trial:
        return self.trials[rate]

    def add(self, trial: Trial) -> None:
        """Keep a trial, on disk too where there is a folder."""
        self.trials[trial.rate] = trial
        if self.path is not None:
            told = {"made_from": self.made_from, "trials": [asdict(trial) for trial in self.trials.values()]}
            with atomic_file(self.path) as file:
                file.write(json.dumps(told, indent=1).encode())
