"""Errors that a user can mend: one clear sentence that ends in a remedy, exit code 2; and the check of a scale."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


class NegmergeError(Exception):
    """Base of every error whose message is meant for the user.

    >>> str(ParameterError("scale is nan: give a number of 0 or more."))
    'scale is nan: give a number of 0 or more.'
    """


class ParameterError(NegmergeError, ValueError):
    """An argument outside what its function can mean: the message names it, the value and the range."""


class DivergedError(ParameterError):
    """Training whose loss stopped being a number: the message names the step and the recipe."""


class SearchDivergedError(DivergedError):
    """A search in which every try diverged.

    Attributes:
        trials: what was tried, as plain values.
        seconds: what the search took.
    """

    def __init__(self, message: str, trials: tuple[dict[str, Any], ...], seconds: float) -> None:
        super().__init__(message)
        self.trials, self.seconds = trials, seconds


class CheckpointError(NegmergeError):
    """A weight file that is missing, truncated, foreign or cannot be written."""


class OtherRunError(CheckpointError):
    """The state of an unfinished training of another run than the one that is asked for.

    Attributes:
        what: what differs, in a few words.
    """

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class NotFiniteError(CheckpointError):
    """Weights that hold NaN or infinity, or answer with it: this candidate's or this rule's fault, not the disk's."""


class MismatchError(CheckpointError):
    """Base and candidates that do not hold the same tensors: the message lists the differences."""


class PoolError(NegmergeError):
    """A pool folder that is missing, incomplete, changed on disk or cannot be written."""


class PoolBusyError(PoolError):
    """A pool that another process is adding candidates to: wait for it, or use another folder."""


class SceneError(NegmergeError):
    """A scene or an image family that does not exist or does not fit the pool."""


class UnknownSetError(SceneError):
    """A forget set that the base does not know: there is nothing to forget, so nothing is trained unless asked for."""


class CardError(NegmergeError):
    """An unlearning card that cannot be read, or that does not go with its weights."""


class SplitError(NegmergeError):
    """A split used where it must not be: test images never choose a scale."""


class DeviceError(NegmergeError):
    """A device that was asked for and is not there."""


def check_scale(scale: object) -> float:
    """Return the scale λ as a float.

    Raises:
        ParameterError: unless it is a finite number of at least 0: a scale is subtracted, a negative one would teach.

    >>> check_scale(0.7)
    0.7
    >>> check_scale(True)
    Traceback (most recent call last):
    negmerge_kit.errors.ParameterError: scale is True: give a finite number of at least 0, it is always subtracted.
    """
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise ParameterError(f"scale is {scale}: give a finite number of at least 0, it is always subtracted.")
    return float(scale)
