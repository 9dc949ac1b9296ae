"""Base and candidates must hold the same tensors: every difference is reported before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from negmerge_kit.errors import MismatchError, ParameterError
from negmerge_kit.types import Weights

BUFFERS = ("keep", "merge", "recalibrate")
SHOWN = 10


def layout_of(weights: Weights) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name to shape and dtype; a lazy checkpoint answers from its header without touching a tensor.

    >>> layout_of({"w": torch.zeros(2, 3)})
    {'w': ((2, 3), torch.float32)}
    """
    layout = getattr(weights, "layout", None)
    if layout is not None:
        answer: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = layout()
        return answer
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}


def label_of(weights: Weights, otherwise: str) -> str:
    """The file that the weights come from, or `otherwise` for a plain dict."""
    return str(getattr(weights, "path", otherwise))


def counted(name: str, dtype: torch.dtype, buffers: str = "keep") -> bool:
    """Whether an entry takes part in the merge: floating, and no running statistic unless those are merged.

    >>> counted("bn1.running_var", torch.float32), counted("bn1.running_var", torch.float32, "merge")
    (False, True)
    """
    return dtype.is_floating_point and (buffers == "merge" or not is_running_statistic(name))


def is_running_statistic(name: str) -> bool:
    """BatchNorm's running mean and variance, told by their key.

    >>> is_running_statistic("visual.bn1.running_mean"), is_running_statistic("visual.bn1.weight")
    (True, False)
    """
    return name.endswith(("running_mean", "running_var"))


def check_alike(base: Weights, candidates: Sequence[Weights]) -> None:
    """Raise unless every candidate has the base's names, shapes and dtypes.

    Raises ParameterError for no candidates or for the base among them, MismatchError for the rest: the message names
    the files, counts every difference and shows the first ten. The remedy is to fine-tune all from one base, or to
    open both with the same `prefix`.

    >>> check_alike({"w": torch.zeros(2)}, [{"w": torch.zeros(3)}])
    Traceback (most recent call last):
    negmerge_kit.errors.MismatchError: candidate 1 does not match the base, 1 difference: w has shape [3], expected \
[2]. Candidates must be fine-tuned from this very base and saved whole.
    """
    if not candidates:
        raise ParameterError("there are no candidates: give at least one fine-tuned checkpoint.")
    expected = layout_of(base)
    for position, candidate in enumerate(candidates, 1):
        if candidate is base or _same_file(base, candidate):
            where = label_of(candidate, f"candidate {position}")
            raise ParameterError(f"{where} is the base itself: leave it out, a candidate is a fine-tuned copy.")
        if getattr(candidate, "holds_deltas", False):
            found = {name: expected.get(name, spec) for name, spec in layout_of(candidate).items()}
            found = {**expected, **found}
        else:
            found = dict(layout_of(candidate))
        lines = differences(expected, found)
        if lines:
            shown = "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
            raise MismatchError(
                f"{label_of(candidate, f'candidate {position}')} does not match {label_of(base, 'the base')}, "
                f"{len(lines)} difference{'s' if len(lines) != 1 else ''}: {shown}. "
                "Candidates must be fine-tuned from this very base and saved whole."
            )


def differences(
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> list[str]:
    """Every difference between two layouts, one phrase each: missing, extra, shape, dtype.

    >>> spec = ((2,), torch.float32)
    >>> differences({"a": spec, "b": spec}, {"b": ((2,), torch.float16), "c": spec})
    ['missing a', 'extra c', 'b is float16, expected float32']
    """
    lines = [f"missing {name}" for name in expected if name not in found]
    lines += [f"extra {name}" for name in found if name not in expected]
    for name, (shape, dtype) in expected.items():
        if name not in found:
            continue
        other_shape, other_dtype = found[name]
        if other_shape != shape:
            lines.append(f"{name} has shape {list(other_shape)}, expected {list(shape)}")
        if other_dtype != dtype:
            lines.append(f"{name} is {_plain(other_dtype)}, expected {_plain(dtype)}")
    return lines


def check_buffers(buffers: str) -> str:
    """The policy for running statistics, or ParameterError with the choices."""
    if buffers not in BUFFERS:
        raise ParameterError(f"buffers is {buffers!r}: choose one of {', '.join(BUFFERS)}.")
    return buffers


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same_file(base: Weights, candidate: Weights) -> bool:
    paths = getattr(base, "path", None), getattr(candidate, "path", None)
    return None not in paths and paths[0] == paths[1]
