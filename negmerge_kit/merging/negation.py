"""Public functions of merging: candidates to a delta, a delta to an unlearned model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from negmerge_kit.devices import pick_merge_device
from negmerge_kit.errors import CheckpointError, MismatchError, ParameterError, check_scale
from negmerge_kit.merging.deltas import compute_dtype
from negmerge_kit.merging.fold import Merge
from negmerge_kit.merging.layout import (
    SHOWN,
    check_alike,
    check_buffers,
    check_voters,
    differences,
    label_of,
    layout_of,
    merges,
    peek,
)
from negmerge_kit.merging.rules import find_rule
from negmerge_kit.merging.sources import Sources, warn_of_half
from negmerge_kit.types import Item, Items, Weights

NONFINITE = ("refuse", "pass")
# argument that is gone -> what to use, for one version
GONE = dict.fromkeys(("engine", "chunk"), "leave it out, there is one way to merge and nothing to compile.")


def merge(
    base: Weights,
    candidates: Sequence[Weights],
    *,
    rule: str = "negmerge",
    device: str | torch.device = "cpu",
    buffers: str = "keep",
    nonfinite: str = "refuse",
    ignore: Sequence[str] = (),
    **params: object,
) -> Merge:
    """Merge the candidates' task vectors θk - θ0 into one delta, tensor after tensor.

    Yields `(name, delta)` for every floating key of the base, in the base's order, shape and dtype; differences and
    sums are float32 (float64 for a float64 base). `rule` and its `params` are described by `RULES`; the default is
    NegMerge (https://arxiv.org/abs/2410.05583): τ* = mean of τk where all signs agree, 0 elsewhere. `buffers` says
    what becomes of BatchNorm's running statistics: `keep` and `recalibrate` give zeros, `merge` treats them as weights.
    The iterator's `.counts` are complete once it is exhausted. Candidates may be stored in another floating dtype than
    the base; entries of other dtypes, and names that match a pattern of `ignore`, stay the base's. The number of
    threads never changes a result.

    Raises:
        ParameterError: no candidates, an unknown rule or parameter, a value out of range.
        MismatchError: a candidate that does not hold the base's tensors; the message lists the differences.
        CheckpointError: NaN or infinities, unless `nonfinite="pass"`.

    >>> base = {"w": torch.zeros(3)}
    >>> merged = merge(base, [{"w": torch.tensor([1.0, -1.0, 0.0])}, {"w": torch.tensor([3.0, 1.0, 2.0])}])
    >>> dict(merged), merged.counts
    ({'w': tensor([2., 0., 0.])}, MergeCounts(elements=3, moved=3, kept=1))
    """
    chosen = find_rule(rule)
    for option in GONE.keys() & params:
        raise ParameterError(f"{option} is gone: {GONE[option]}")
    settings = chosen.resolve(params)
    if nonfinite not in NONFINITE:
        raise ParameterError(f"nonfinite is {nonfinite!r}: choose one of {', '.join(NONFINITE)}.")
    check_alike(base, candidates, ignore=ignore)
    check_voters(candidates)
    sources = Sources(base, candidates, device=device, buffers=check_buffers(buffers), ignore=ignore)
    merged = Merge(sources, chosen, settings, refuse_nonfinite=nonfinite == "refuse")
    merged.counts.below_half_step = warn_of_half(sources)[0]
    return merged


def unlearn(
    base: Weights,
    candidates: Sequence[Weights],
    *,
    scale: float,
    rule: str = "negmerge",
    device: str | torch.device = "cpu",
    buffers: str = "keep",
    nonfinite: str = "refuse",
    ignore: Sequence[str] = (),
    **params: object,
) -> Iterator[Item]:
    """The base minus `scale` times the merged delta, over the base's whole key set: θ = θ0 - λ τ*.

    Integer and bool entries are the base's. Arguments and errors are `merge`'s; `scale` is finite and at least 0
    (negation is the subtraction itself), or ParameterError.

    >>> base = {"w": torch.ones(2), "steps": torch.tensor(7)}
    >>> tuned = {"w": torch.tensor([2.0, 1.0]), "steps": torch.tensor(9)}
    >>> dict(unlearn(base, [tuned], scale=0.5))
    {'w': tensor([0.5000, 1.0000]), 'steps': tensor(7)}
    """
    check_scale(scale)
    merged = merge(
        base, candidates, rule=rule, device=device, buffers=buffers, nonfinite=nonfinite, ignore=ignore, **params
    )
    return negate(base, merged, scale, device=pick_merge_device(device))


def apply_delta(base: Weights, delta: Weights | Items, scale: float) -> Iterator[Item]:
    """The base minus `scale` times a delta that was merged before, over the base's whole key set.

    `delta` is a mapping or a stream of `(name, tensor)` in the base's order, such as `merge` gives. Raises
    ParameterError for a scale that is negative or not finite, MismatchError for a delta of another model.

    >>> dict(apply_delta({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 0.0])}, 0.25))
    {'w': tensor([0.7500, 1.0000])}
    """
    check_scale(scale)
    if isinstance(delta, Mapping):
        layout = {name: spec for name, spec in layout_of(base).items() if merges(spec[1])}
        lines = differences(
            layout,
            {name: (shape, layout.get(name, (shape, dtype))[1]) for name, (shape, dtype) in layout_of(delta).items()},
        )
        if lines:
            raise MismatchError(
                f"{label_of(delta, 'the delta')} does not fit {label_of(base, 'the base')}: "
                f"{'; '.join(lines[:SHOWN])}. Apply it to the base that it was merged from."
            )
        return negate(base, ((name, peek(delta, name)) for name in layout), scale)
    return negate(base, iter(delta), scale)


def subtract(base: Tensor, delta: Tensor, scale: float) -> Tensor:
    """base - scale · delta in float32 (float64 for a float64 base), rounded once to the base's dtype.

    Every path uses this one function, so a model updated in place and a file agree bit for bit; `scale` 0 gives the
    base's own bits. Multiplied, then subtracted: a fused multiply-add would round differently by device.

    >>> subtract(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), 2.0)
    tensor([0., 2.])
    """
    if scale == 0:
        return base.clone()
    dtype = compute_dtype(base.dtype)
    step = delta.to(dtype) * scale
    return torch.sub(base.to(dtype), step, out=step).to(base.dtype)  # in place: a large tensor is in memory once less


def negate(
    base: Weights, deltas: Iterator[Item], scale: float, *, device: torch.device | None = None
) -> Iterator[Item]:
    """The unlearned model from a stream of deltas in the base's order: the loop behind `unlearn` and `apply_delta`."""
    for name in layout_of(base):
        # Nothing here holds a tensor while the next delta is merged: two large ones in memory are the most.
        yield name, _negated(base, name, deltas, scale, device)
    if next(deltas, None) is not None:
        raise MismatchError("the delta has tensors that the base lacks: apply it to the base that it was merged from.")


def _negated(base: Weights, name: str, deltas: Iterator[Item], scale: float, device: torch.device | None) -> Tensor:
    weights = peek(base, name)
    weights = weights if device is None else weights.to(device)
    if not merges(weights.dtype):
        return weights.clone()
    found, delta = next(deltas, ("", weights))
    if found != name or delta.shape != weights.shape:
        raise MismatchError(
            f"the delta has {found or 'nothing'} where the base has {name} {list(weights.shape)}: "
            "apply it to the base that it was merged from."
        )
    result = subtract(weights.to(delta.device), delta, scale)
    if name.endswith("running_var") and bool((result < 0).any()):
        raise CheckpointError(
            f"{name} would become negative at scale {scale:g}: a variance cannot be; "
            'use buffers="keep" or a smaller scale.'
        )
    return result
