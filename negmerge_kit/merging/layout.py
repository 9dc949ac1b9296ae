"""Layout check: base and candidates must hold the same tensors; all differences are reported before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor

from negmerge_kit.errors import MismatchError, ParameterError
from negmerge_kit.types import Weights

BUFFERS = ("keep", "merge", "recalibrate")
SHOWN = 10
MERGING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes whose entries merge; those of any other are copied from the base (docs/checkpoints.md)."""


def layout_of(weights: Weights) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Map each name to its shape and dtype; a lazy checkpoint answers from its header without reading a tensor.

    Raises ParameterError for a name that is no text, or an entry that is no tensor with numbers in a grid.

    >>> layout_of({"w": torch.zeros(2, 3)})
    {'w': ((2, 3), torch.float32)}
    """
    layout = getattr(weights, "layout", None)
    if layout is not None:
        answer: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = layout()
        return answer
    return {name: _spec(name, tensor) for name, tensor in weights.items()}


def peek(weights: Weights, name: str) -> Tensor:
    """Return a tensor without copying it where the mapping has a `view`, as lazy checkpoints do."""
    view = getattr(weights, "view", None)
    tensor: Tensor = weights[name] if view is None else view(name)
    return tensor.detach()


def label_of(weights: Weights, otherwise: str) -> str:
    """The file that the weights come from, or `otherwise` for a plain dict."""
    return str(getattr(weights, "path", otherwise))


def merges(dtype: torch.dtype) -> bool:
    """Whether entries of this dtype merge: float64, float32, float16 and bfloat16.

    >>> merges(torch.bfloat16), merges(torch.complex64), merges(torch.float8_e4m3fn), merges(torch.int64)
    (True, False, False, False)
    """
    return dtype in MERGING


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns, with the shell's `*`, `?` and `[…]`.

    >>> matches("text.position_ids", ["*.position_ids"]), matches("proj", [])
    (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def counted(name: str, dtype: torch.dtype, buffers: str = "keep") -> bool:
    """Whether an entry takes part in the merge: of a dtype that merges, and no running statistic unless asked for.

    >>> counted("bn1.running_var", torch.float32), counted("bn1.running_var", torch.float32, "merge")
    (False, True)
    """
    return merges(dtype) and (buffers == "merge" or not is_running_statistic(name))


def is_running_statistic(name: str) -> bool:
    """Whether a key names a running mean or variance of BatchNorm.

    >>> is_running_statistic("visual.bn1.running_mean"), is_running_statistic("visual.bn1.weight")
    (True, False)
    """
    return name.endswith(("running_mean", "running_var"))


def check_alike(base: Weights, candidates: Sequence[Weights], *, ignore: Sequence[str] = ()) -> None:
    """Raise unless every candidate has the base's names and shapes, and dtypes that can be brought together.

    Candidates may be stored in another dtype that merges than the base's. Entries that do not merge are copied from
    the base, so a candidate whose own differ is refused, except for single numbers: counters. Names that match
    `ignore` (see `matches`) are not compared.

    Raises ParameterError for no candidates, or for the base among them; MismatchError for the
    rest: the message names the files, counts what is missing, extra and different apart and shows the first ten. The
    remedy is to fine-tune all from one base, or to open both with the same `prefix`.

    >>> check_alike({"w": torch.zeros(2)}, [{"w": torch.zeros(3)}])
    Traceback (most recent call last):
    negmerge_kit.errors.MismatchError: candidate 1 does not match the base, 1 difference: w has shape [3], expected \
[2]. Candidates must be fine-tuned from this very base and saved whole; leave out what may differ with --ignore PATTERN.
    """
    if not candidates:
        raise ParameterError("there are no candidates: give at least one fine-tuned checkpoint.")
    expected = {name: spec for name, spec in layout_of(base).items() if not matches(name, ignore)}
    for position, candidate in enumerate(candidates, 1):
        if candidate is base or _same_file(base, candidate):
            where = label_of(candidate, f"candidate {position}")
            raise ParameterError(f"{where} is the base itself: leave it out, a candidate is a fine-tuned copy.")
        if getattr(candidate, "holds_deltas", False):
            found = {name: expected.get(name, spec) for name, spec in layout_of(candidate).items()}
            found = {**expected, **found}
        else:
            found = {name: spec for name, spec in layout_of(candidate).items() if not matches(name, ignore)}
        lines = differences(expected, found)
        if lines:
            shown = "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
            raise MismatchError(
                f"{label_of(candidate, f'candidate {position}')} does not match {label_of(base, 'the base')}, "
                f"{len(lines)} difference{'s' if len(lines) != 1 else ''}{_apart(lines)}: {shown}. Candidates must be "
                "fine-tuned from this very base and saved whole; leave out what may differ with --ignore PATTERN."
            )
        if not getattr(candidate, "holds_deltas", False):
            _check_copied(base, candidate, expected, label_of(candidate, f"candidate {position}"))


def differences(
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> list[str]:
    """Every difference between two layouts, one phrase each: missing, extra, shape, dtype.

    Two dtypes that both merge are no difference.

    >>> spec = ((2,), torch.float32)
    >>> differences({"a": spec, "b": spec, "d": spec}, {"b": ((2,), torch.int8), "c": spec, "d": ((2,), torch.float16)})
    ['missing a', 'extra c', 'b is int8, expected float32']
    """
    lines = [f"missing {name}" for name in expected if name not in found]
    lines += [f"extra {name}" for name in found if name not in expected]
    for name, (shape, dtype) in expected.items():
        if name not in found:
            continue
        other_shape, other_dtype = found[name]
        if other_shape != shape:
            lines.append(f"{name} has shape {list(other_shape)}, expected {list(shape)}")
        if other_dtype != dtype and not (merges(dtype) and merges(other_dtype)):
            lines.append(f"{name} is {_plain(other_dtype)}, expected {_plain(dtype)}")
    return lines


def check_buffers(buffers: str) -> str:
    """The policy for running statistics, or ParameterError with the choices."""
    if buffers not in BUFFERS:
        raise ParameterError(f"buffers is {buffers!r}: choose one of {', '.join(BUFFERS)}.")
    return buffers


def _apart(lines: Sequence[str]) -> str:
    """Count missing and extra entries separately."""
    counts = [(word, sum(line.startswith(f"{word} ") for line in lines)) for word in ("missing", "extra")]
    summary = ", ".join(f"{count} {word}" for word, count in counts if count)
    return f" ({summary})" if summary and len(lines) > 1 else ""


def check_voters(candidates: Sequence[Weights]) -> None:
    """Refuse one candidate given twice, by object, file or tensors: it would be two votes of one model.

    >>> tuned = {"w": torch.ones(2)}
    >>> check_voters([tuned, tuned])
    Traceback (most recent call last):
    negmerge_kit.errors.ParameterError: candidate 2 is given twice, as candidates 1 and 2: it would be two votes of \
one model; leave one out.
    """
    for second, candidate in enumerate(candidates, 1):
        for first, other in enumerate(candidates[: second - 1], 1):
            if candidate is other or _same_file(candidate, other) or _same_tensors(candidate, other):
                where = label_of(candidate, f"candidate {second}")
                raise ParameterError(
                    f"{where} is given twice, as candidates {first} and {second}: it would be two votes of one "
                    "model; leave one out."
                )


def _same_tensors(one: Weights, other: Weights) -> bool:
    """Whether two dicts hold the very same tensors; both hold them while they are compared."""
    if not (isinstance(one, dict) and isinstance(other, dict)) or not one or one.keys() != other.keys():
        return False
    return all(tensor is other[name] for name, tensor in one.items())


def _check_copied(
    base: Weights, candidate: Weights, expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]], where: str
) -> None:
    """Refuse entries that differ but do not merge: copying the base's would lose what the candidate learned."""
    for name, (shape, dtype) in expected.items():
        if merges(dtype) or prod(shape) <= 1:
            continue
        ours, theirs = peek(base, name), peek(candidate, name)
        if not torch.equal(_bytes(ours), _bytes(theirs)):
            raise MismatchError(
                f"{where} differs from the base in {name}, which is {_plain(dtype)} and does not merge: "
                f"{_remedy(dtype)}, or keep the base's with --ignore PATTERN."
            )


def _remedy(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "a complex number has no sign; store it as real numbers (torch.view_as_real)"
    if dtype.is_floating_point:
        return "its steps are larger than most moves of fine-tuning; save base and candidates as bfloat16 or float32"
    return "whole numbers are copied from the base; turn packed or quantised weights back into floats"


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _spec(name: object, tensor: object) -> tuple[tuple[int, ...], torch.dtype]:
    if not isinstance(name, str):
        raise ParameterError(f"{name!r} is a name of type {type(name).__name__}: tensors are named by text.")
    if not isinstance(tensor, Tensor):
        raise ParameterError(f"{name} is a {type(tensor).__name__}, no tensor: leave it out of the weights.")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else str(tensor.layout)
        raise ParameterError(f"{name} is a {kind} tensor: give a plain one (.to_dense(), .dequantize()).")
    return tuple(tensor.shape), tensor.dtype


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same_file(base: Weights, candidate: Weights) -> bool:
    paths = getattr(base, "path", None), getattr(candidate, "path", None)
    return None not in paths and paths[0] == paths[1]
