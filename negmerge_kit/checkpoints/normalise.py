"""Two namings of one model: wrappers and common prefixes, buffers that came or went, tied weights, renamings.

The base's own names stay; what is opened next to it is read under them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from negmerge_kit.checkpoints.reader import Checkpoint
from negmerge_kit.errors import MismatchError, ParameterError
from negmerge_kit.merging.layout import SHOWN, label_of, layout_of, matches, merges, peek
from negmerge_kit.types import Weights

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch.compile, FSDP and checkpointing put into names, at any depth; no module is called so."""
OUTER = ("module.", "model.", "image_encoder.model.")
"""Prefixes of whole models: DataParallel's, Lightning's, the authors'."""
BUFFERS = re.compile(
    r"(.*\.)?(position_ids|inv_freq|attn_mask|masked_bias|relative_position_index|"
    r"relative_coords_table|num_batches_tracked)"
)
"""Buffers that are computed, not learned, which libraries store in one version and not in the next."""


@dataclass(frozen=True)
class Fit:
    """Match of a checkpoint to a base: the base's names to its own, the base's that it leaves alone, what was done."""

    names: Mapping[str, str]
    aside: tuple[str, ...]
    notes: tuple[str, ...]


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Own name to the name without wrappers, and without outer prefixes that all of them carry.

    Parts of `WRAPPERS` go wherever they are, unless two names would then be one.

    >>> unwrapped(["module._orig_mod.a.w", "module._orig_mod.b.w"])
    {'module._orig_mod.a.w': 'a.w', 'module._orig_mod.b.w': 'b.w'}
    """
    plain = _without_wrappers(list(names))
    while prefix := next((x for x in OUTER if plain and all(_begins(name, x) for name in plain.values())), ""):
        plain = {own: name.removeprefix(prefix) for own, name in plain.items()}
    return plain


def as_a_model(weights: Checkpoint, wanted: Iterable[str] | None = None) -> Checkpoint:
    """A weight file under the names that a model has: `unwrapped`, unless no more of the `wanted` names are met so."""
    plain, expected = unwrapped(weights), {*(wanted or ())}
    if wanted is not None and len(expected & {*plain.values()}) <= len(expected & {*weights}):
        return weights
    return weights.renamed({name: own for own, name in plain.items()})


def fit(base: Weights, other: Weights, *, renames: Mapping[str, str] | None = None, ignore: Sequence[str] = ()) -> Fit:
    """Find each of the base's tensors in another checkpoint of the same model.

    `renames` are the checkpoint's names, or beginnings that end in a dot, to the base's; `ignore` are patterns of names
    that are not compared. Then wrappers' parts and the common prefix that lets most names meet are taken off either
    side. What is left over may be entries that do not merge, computed buffers (`BUFFERS`), and tied weights: a tensor
    that equals another one of the same file bit for bit. The base's tied ones take their partner's value.

    Raises MismatchError for the rest: it counts each side apart, shows names of both, and recognises a renaming.

    >>> weights = {"a.w": torch.ones(2), "a.b": torch.ones(1)}
    >>> fit(weights, {f"module.{name}": tensor for name, tensor in weights.items()})
    Fit(names={'a.w': 'module.a.w', 'a.b': 'module.a.b'}, aside=(), notes=("names read without 'module.'",))
    """
    expected, found = layout_of(base), layout_of(other)
    notes: list[str] = []
    wanted = [name for name in expected if not matches(name, ignore)]
    given = {own: own for own in found if not matches(own, ignore)}
    if renames:
        given = _renamed(given, renames, label_of(other, "the candidate"))
    given = {own: name for own, name in given.items() if not matches(name, ignore)}
    ours = {name: name for name in wanted}
    if set(ours) != set(given.values()):
        ours, given = _common(ours, given, expected, found, notes)
    by_name = {name: own for own, name in given.items()}
    names = {name: by_name[plain] for name, plain in ours.items() if plain in by_name}
    used = set(names.values())
    missing = [name for name in wanted if name not in names]
    extra = [own for own in given if own not in used]
    aside = tuple(name for name in missing if _is_buffer(name, expected))
    dropped = [own for own in extra if _is_buffer(own, found)]
    tied = {}
    for name in set(missing) - set(aside):
        if partner := _partner(base, name, [other for other in names if other in expected], expected):
            tied[name] = names[partner]
    again = [own for own in set(extra) - set(dropped) if _partner(other, own, sorted(used), found)]
    missing = [name for name in missing if name not in aside and name not in tied]
    extra = [own for own in extra if own not in dropped and own not in again]
    if missing or extra:
        raise MismatchError(_mismatch_message(base, other, missing, extra, expected, found))
    names |= tied
    for what, listed in (
        ("buffers that are not there and stay the base's", sorted(aside)),
        ("buffers that the base lacks, left out", sorted(dropped)),
        ("tied weights stored once, taken from their partner", sorted(tied)),
        ("tied weights stored twice, left out", sorted(again)),
    ):
        if listed:
            notes.append(f"{what}: {_some(listed)}")
    return Fit({name: names[name] for name in expected if name in names}, aside, tuple(notes))


def read_map(path: str | Path) -> dict[str, str]:
    """Read the lines `old = new` of a file: a candidate's names, or beginnings that end in a dot, to the base's.

    Raises:
        ParameterError: for a file that cannot be read, a line of another form, or a name twice.
    """
    renames: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be read ({error}): give a text file of lines old = new.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        old, equals, new = (part.strip() for part in line.partition("="))
        if not (old and equals and new) or old.endswith(".") != new.endswith("."):
            raise ParameterError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not old = new, two names or two beginnings that end "
                "in a dot."
            )
        if old in renames:
            raise ParameterError(f"{path}, line {number}: {old} is renamed twice; keep one line.")
        renames[old] = new
    if not renames:
        raise ParameterError(f"{path} renames nothing: give lines old = new.")
    return renames


def format_notes(fits: Sequence[tuple[str, Fit]]) -> list[str]:
    """Format the notes of several fits: one line a kind, with the files that it applies to.

    >>> format_notes([("a", Fit({}, (), ("x",))), ("b", Fit({}, (), ("x",)))])
    ['a, b: x']
    """
    groups: dict[str, list[str]] = {}
    for label, found in fits:
        for note in found.notes:
            groups.setdefault(note, []).append(label)
    return [f"{_some(labels)}: {note}" for note, labels in groups.items()]


def _begins(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _without_wrappers(names: Sequence[str]) -> dict[str, str]:
    plain = {own: ".".join(part for part in own.split(".") if part not in WRAPPERS) for own in names}
    return plain if len(set(plain.values())) == len(plain) and all(plain.values()) else {own: own for own in names}


def _renamed(given: Mapping[str, str], renames: Mapping[str, str], label: str) -> dict[str, str]:
    starts = sorted((old for old in renames if old.endswith(".")), key=len, reverse=True)
    result = {}
    for own, name in given.items():
        start = next((old for old in starts if name.startswith(old)), None)
        result[own] = renames.get(name, name if start is None else renames[start] + name.removeprefix(start))
    if len(set(result.values())) < len(result):
        twice = next(name for name in result.values() if [*result.values()].count(name) > 1)
        raise ParameterError(f"--map gives {twice} to two tensors of {label}: rename one of them otherwise.")
    if result == dict(given):
        raise ParameterError(f"--map renames nothing in {label}: its names begin with {next(iter(given), 'nothing')}.")
    return result


def _common(
    ours: dict[str, str],
    given: dict[str, str],
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    notes: list[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Both sides without wrappers and without the prefixes whose absence lets most names meet."""
    sides = []
    for side, layout in ((ours, expected), (given, found)):
        plain = _without_wrappers(list(side.values()))
        plain = {own: plain[name] for own, name in side.items()}
        core = [name for own, name in plain.items() if not _is_buffer(own, layout)]
        sides.append((plain, _prefixes(core)))
    (mine, my_prefixes), (theirs, their_prefixes) = sides
    options = []
    for one in my_prefixes:
        here = {name.removeprefix(one) for name in mine.values()}
        for two in their_prefixes:
            met = len(here & {name.removeprefix(two) for name in theirs.values()})
            options.append((-met, len(one) + len(two), one, two))
    _, _, one, two = min(options)
    shorter = (
        {own: name.removeprefix(one) for own, name in mine.items()},
        {own: name.removeprefix(two) for own, name in theirs.items()},
    )
    wrapped = [part for part in WRAPPERS if any(part in name.split(".") for name in given.values())]
    if any(len(set(side.values())) < len(side) for side in shorter):
        return ours, given
    if wrapped or two:
        notes.append(f"names read without {' and '.join(repr(x) for x in (*wrapped, two) if x)}")
    kept = [part for part in WRAPPERS if any(part in name.split(".") for name in ours.values())]
    if kept or one:
        notes.append(f"names read under the base's own {' and '.join(repr(x) for x in (*kept, one) if x)}")
    return shorter


def _prefixes(names: Sequence[str]) -> list[str]:
    """The beginnings, up to a dot, that all names share, from none to the longest."""
    first, last = min(names, default=""), max(names, default="")
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return [first[:end] for end in (0, *(match.end() for match in re.finditer(r"\.", first[:shared])))]


def _is_buffer(name: str, layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> bool:
    return not merges(layout[name][1]) or BUFFERS.fullmatch(name) is not None


def _partner(
    weights: Weights, name: str, others: Sequence[str], layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
) -> str | None:
    """Find another tensor of the same checkpoint that holds the same bits."""
    bits = None
    for other in others:
        if other != name and layout[other] == layout[name] and layout[name][0]:
            bits = bits if bits is not None else _bits(weights, name)
            if torch.equal(bits, _bits(weights, other)):
                return other
    return None


def _bits(weights: Weights, name: str) -> torch.Tensor:
    return peek(weights, name).contiguous().reshape(-1).view(torch.uint8)


def _mismatch_message(
    base: Weights,
    other: Weights,
    missing: Sequence[str],
    extra: Sequence[str],
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> str:
    one, two = label_of(base, "the base"), label_of(other, "the candidate")
    sides = [
        f"{len(names)} of {len(layout)} tensors are in {label} only ({_some(names)})"
        for names, layout, label in ((missing, expected, one), (extra, found, two))
        if names
    ]
    wanted, given = [expected[name][0] for name in missing], [found[name][0] for name in extra]
    order = " in the same order" if wanted == given else ""
    remedy = (
        f"The shapes are the same{order}, as after a renaming: if that is what it is, give --map FILE with lines "
        f"old = new, such as {extra[given.index(wanted[0])]} = {missing[0]}, whole names or beginnings that end in a "
        "dot."
        if sorted(wanted) == sorted(given)
        else "Candidates must be fine-tuned from this very base and saved whole; leave out what may differ with "
        "--ignore PATTERN, or rename with --map FILE."
    )
    return f"{two} does not match {one}: {'; '.join(sides)}. {remedy}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[: SHOWN // 2])
    return shown if len(names) <= SHOWN // 2 else f"{shown} and {len(names) - SHOWN // 2} more"
