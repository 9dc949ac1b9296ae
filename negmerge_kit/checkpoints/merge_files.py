"""Files in, files out: what the verbs `merge`, `agreement`, `apply`, `undo` do, as functions that return their JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from pathlib import Path

from negmerge_kit.checkpoints.adapters import Adapter, is_adapter
from negmerge_kit.checkpoints.delta_file import DeltaWriter, open_delta, undo_delta
from negmerge_kit.checkpoints.digests import Digests
from negmerge_kit.checkpoints.folders import Output, plan_output
from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.hub import fetch, is_hub_id
from negmerge_kit.checkpoints.normalise import fit, format_notes
from negmerge_kit.checkpoints.overwrite_guard import check_outputs, files_of
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.errors import MismatchError, ParameterError, check_scale
from negmerge_kit.merging.agreement import total
from negmerge_kit.merging.fold import MergeCounts
from negmerge_kit.merging.health import health, suggestion
from negmerge_kit.merging.layout import check_buffers, matches
from negmerge_kit.merging.negation import apply_delta, merge, negate
from negmerge_kit.merging.signs import chance
from negmerge_kit.merging.similarity import likeness, pooled
from negmerge_kit.merging.sources import Sources, warn_of_half
from negmerge_kit.safe_json import finite
from negmerge_kit.types import Item, Items, Json, Weights


def open_candidate(path: str | Path, base: Weights, *, prefix: str = "") -> Checkpoint | Adapter:
    """A candidate by its path: a checkpoint like the base, or a LoRA adapter, PEFT's or diffusers'."""
    path = fetch(str(path)) if is_hub_id(str(path)) else Path(path)
    return Adapter(path, base, prefix=prefix) if is_adapter(path) else open_checkpoint(path, prefix=prefix)


@dataclass(frozen=True)
class Opened:
    """A base and its candidates under the base's names, the names that stay the base's, and what was done to get there.

    `record` goes into what is written from them: patterns and renamings that were given, if any.
    """

    base: Checkpoint
    others: list[Checkpoint | Adapter]
    ignore: tuple[str, ...]
    notes: tuple[str, ...]
    record: Json

    def compared(self) -> tuple[Checkpoint, list[Checkpoint | Adapter]]:
        """Base and candidates without the ignored names, for comparisons that write nothing."""
        kept = {name: name for name in self.base if not matches(name, self.ignore)}
        return self.base.renamed(kept), [
            other if isinstance(other, Adapter) else other.renamed({name: name for name in other if name in kept})
            for other in self.others
        ]


def open_all(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    prefix: str = "",
    renames: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> Opened:
    """Open a base and its candidates, each candidate read under the base's names (see `normalise.fit`).

    Raises:
        ParameterError: a candidate that is the base or another candidate, byte for byte; a pattern that meets no name.
        MismatchError: a candidate that is not of this model.
    """
    opened = open_checkpoint(base, prefix=prefix)
    others = [open_candidate(path, opened, prefix=prefix) for path in candidates]
    _refuse_copies(opened, others)
    for pattern in ignore:
        if not any(matches(name, [pattern]) for weights in (opened, *others) for name in weights):
            raise ParameterError(f"--ignore {pattern} meets no tensor: it has {', '.join(list(opened)[:3])}, …")
    fits = [
        (str(path), fit(opened, other, renames=renames, ignore=ignore))
        for path, other in zip(candidates, others, strict=True)
        if isinstance(other, Checkpoint)
    ]
    notes = format_notes(fits)
    if kept := [name for name in opened if matches(name, ignore)]:
        notes.append(
            f"ignored, so they stay the base's: {', '.join(kept[:5])}"
            + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        )
    found = iter(fits)
    read = [other.renamed(next(found)[1].names) if isinstance(other, Checkpoint) else other for other in others]
    aside = dict.fromkeys(escape(name) for _, one in fits for name in one.aside)
    given: Json = {"ignore": list(ignore)} if ignore else {}
    given |= {"renames": dict(renames)} if renames else {}
    return Opened(opened, read, (*ignore, *aside), tuple(notes), given)


def merge_files(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    delta_out: str | Path | None = None,
    scale: float = 1.0,
    rule: str = "negmerge",
    device: str = "cpu",
    buffers: str = "keep",
    nonfinite: str = "refuse",
    prefix: str = "",
    renames: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    force: bool = False,
    digests: Digests | None = None,
    **params: object,
) -> Json:
    """Merge candidates' files into an unlearned checkpoint (`out`), a sparse delta (`delta_out`), both or neither.

    One pass, streamed; both files are written whole or not at all, and carry rule, parameters, scale and the SHA-256
    of every input. With both, the delta can be undone. `out` is a file or, where the base has its config next to it
    and `out` no .safetensors ending, a folder that `from_pretrained` loads (see `plan_output`). Candidates are read
    under the base's names (see `open_all`), and `notes` say how. Raises as `merge` and `save_checkpoint` do,
    ParameterError when a candidate is the base or both outputs are one, CheckpointError when an output is an input or
    would replace a file of another kind, and MismatchError when a candidate's file names another base than this one,
    by SHA-256; with `force` it passes, and the outputs say so. `digests` may have begun on the files,
    and end here.
    """
    check_scale(scale)
    found = open_all(base, candidates, prefix=prefix, renames=renames, ignore=ignore)
    opened, others = found.base, found.others
    read = files_of(opened, *others)
    model = None
    if out is not None:  # a config is of the whole model, not of a part that a prefix shows
        model = Output(Path(out), opened) if prefix else plan_output(out, base, opened)
        model.check(read)
        if delta_out is not None and Path(delta_out).resolve().is_relative_to(Path(out).resolve()):
            raise ParameterError(f"{out} is to hold both the model and the delta: choose two files, none in the other.")
    if delta_out is not None:
        check_outputs([Path(delta_out)], read)
    started = time.perf_counter()
    merged = merge(
        opened, others, rule=rule, device=device, buffers=buffers, nonfinite=nonfinite, ignore=found.ignore, **params
    )
    record: Json = {"rule": rule, "params": merged.settings, "buffers": buffers, "scale": scale, **found.record}
    with digests or Digests() as hashing, ExitStack() as files:
        inputs: Inputs | None = None
        if out is not None or delta_out is not None:
            inputs = Inputs(opened, others, candidates, hashing, force=force)
        outline = record | (inputs.outline if inputs else {})

        def complete() -> Json:
            return record | (inputs.record() if inputs else {})

        items: Items = merged
        if delta_out is not None:
            kept_for = scale if out is not None else None
            delta = DeltaWriter(Path(delta_out), opened, scale=kept_for, metadata=outline, complete=complete)
            items = _written(merged, files.enter_context(delta))
        if model is not None:
            out = model.save(negate(opened, iter(items), scale), outline, complete)
        else:
            for _ in items:
                pass
    return merged_json(
        record,
        candidates,
        merged.counts,
        seconds=time.perf_counter() - started,
        out=out,
        delta_out=delta_out,
        notes=[*found.notes, *(model.notes if model else ())],
    )


def merged_json(
    record: Json,
    candidates: Sequence[str | Path],
    counts: MergeCounts,
    *,
    seconds: float,
    out: str | Path | None,
    delta_out: str | Path | None = None,
    notes: Sequence[str],
) -> Json:
    """What `negmerge merge --json` prints, of a merge in one go or by shards; `record` is what the outputs carry."""
    return {
        "rule": record["rule"],
        "params": dict(record["params"]),
        "candidates": [str(path) for path in candidates],
        "elements": counts.elements,
        "moved": counts.moved,
        "kept": counts.kept,
        "kept_fraction": counts.kept_fraction,
        "kept_of_moved": counts.kept_of_moved,
        "scale": record["scale"],
        "seconds": seconds,
        "out": None if out is None else str(out),
        "delta_out": None if delta_out is None else str(delta_out),
        "below_half_step": counts.below_half_step,
        "notes": list(notes),
    }


def agreement_files(
    base: str | Path,
    candidates: Sequence[str | Path],
    *,
    device: str = "cpu",
    buffers: str = "keep",
    prefix: str = "",
    renames: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> Json:
    """Count the elements on which candidates' signs agree, in all and by tensor, with the chance level.

    `unanimous_of_length` is their share of the plain average's squared length, None where a candidate holds NaN.
    `health` has a row for each candidate and says which do not belong with the others. Raises as `sign_agreement`.
    """
    found = open_all(base, candidates, prefix=prefix, renames=renames, ignore=ignore)
    opened, others = found.compared()
    small, _ = warn_of_half(Sources(opened, others, buffers=check_buffers(buffers)))
    alike = list(likeness(opened, others, device=device, buffers=buffers))
    layers = [layer.agreement for layer in alike]
    everything = total(layers)
    rows = health(pooled(alike).products)  # none where no tensor counts
    return {
        "candidates": [str(path) for path in candidates],
        "elements": everything.elements,
        "moved": everything.moved,
        "unanimous": everything.unanimous,
        "unanimous_fraction": everything.unanimous_fraction,
        "unanimous_of_moved": everything.unanimous_of_moved,
        "unanimous_of_length": finite(everything.unanimous_of_length),
        "chance": chance(len(candidates)),
        "histogram": list(everything.histogram),
        "tensors": [
            {
                "name": layer.name,
                "elements": layer.elements,
                "moved": layer.moved,
                "unanimous_fraction": layer.unanimous_fraction,
                "unanimous_of_length": finite(layer.unanimous_of_length),
            }
            for layer in layers
        ],
        "health": [row.json(Path(path).name) for row, path in zip(rows, candidates, strict=False)],
        "suggestion": suggestion(rows),
        "below_half_step": small,
        "notes": list(found.notes),
    }


def apply_file(base: str | Path, delta: str | Path, *, scale: float, out: str | Path) -> Json:
    """Write the base minus `scale` times a delta file; what `negmerge apply` prints."""
    started = time.perf_counter()
    opened, change = open_checkpoint(base), open_delta(delta)
    model = plan_output(out, base, opened)
    model.check(files_of(opened, change))
    with Digests() as digests:
        inputs = Inputs(opened, [change], [delta], digests)
        record: Json = {"scale": check_scale(scale)}
        items = apply_delta(opened, change, scale)
        written = model.save(items, record | inputs.outline, lambda: record | inputs.record())
    return _done(base, delta, scale, model, written, started)


def undo_file(unlearned: str | Path, delta: str | Path, *, scale: float, out: str | Path) -> Json:
    """Write the base again, bit for bit, from what `apply_file` or `merge_files` made of it."""
    started = time.perf_counter()
    opened, change = open_checkpoint(unlearned), open_delta(delta)
    model = plan_output(out, unlearned, opened)
    model.check(files_of(opened, change))
    return _done(unlearned, delta, scale, model, model.save(undo_delta(opened, change, scale)), started)


class Inputs:
    """Record of an output's inputs: the SHA-256 of every file, and which candidates were forced in.

    `outline` is that with zeros for the digests, which `digests` is still computing; `record` waits for them.

    Raises:
        MismatchError: for a candidate of another base, unless `force`d.
    """

    def __init__(
        self,
        base: Weights,
        others: Sequence[Weights],
        names: Sequence[str | Path],
        digests: Digests,
        *,
        force: bool = False,
    ) -> None:
        self._digests = digests
        self._groups = [list(getattr(weights, "files", ())) for weights in (base, *others)]
        digests.begin(file for group in self._groups for file in group)
        self._forced = self._foreign_candidates(others, names, force)
        self.outline = self._with(lambda file: "0" * 64)

    def record(self) -> Json:
        """The same with the digests."""
        return self._with(self._digests.of)

    def _with(self, digest: Callable[[Path], str]) -> Json:
        base, *others = [{file.name: digest(file) for file in group} for group in self._groups]
        return {"inputs": {"base": base, "others": others}} | ({"forced": self._forced} if self._forced else {})

    def _foreign_candidates(self, others: Sequence[Weights], names: Sequence[str | Path], force: bool) -> list[str]:
        """Candidates that were fine-tuned from another base, as far as their files say."""
        recorded = [getattr(weights, "metadata", {}).get(MADE_FROM) for weights in others]
        if all(made_from is None for made_from in recorded):
            return []
        base = [self._digests.of(file) for file in self._groups[0]]
        foreign = [
            Path(name)
            for name, made_from in zip(names, recorded, strict=True)
            if made_from is not None and made_from not in base
        ]
        if foreign and not force:
            raise MismatchError(
                f"{foreign[0]} was fine-tuned from another base than {self._groups[0][0].name} (by the SHA-256 in "
                "its file): give its own base, or merge it all the same with --force."
            )
        return [name.name for name in foreign]


def _refuse_copies(base: Weights, others: Sequence[Weights]) -> None:
    """Refuse a model that counts twice, or the base as a candidate: files that are equal byte for byte.

    Whole files are hashed only where their sizes and samples of them are the same.
    """
    groups = [tuple(Path(file) for file in getattr(weights, "files", ())) for weights in (base, *others)]
    seen: dict[object, list[int]] = {}
    for position, files in enumerate(groups):
        seen.setdefault(tuple(map(_sample, files)), []).append(position)
    for positions in seen.values():
        first_with: dict[object, int] = {}
        for position in positions if len(positions) > 1 else ():
            first = first_with.setdefault(tuple(map(sha256_file, groups[position])), position)
            file = groups[position][0]
            if first == position:
                continue
            if first == 0:
                raise ParameterError(
                    f"{file} is the base itself, byte for byte: leave it out, a candidate is a fine-tuned copy."
                )
            raise ParameterError(
                f"{file} is {groups[first][0]} again, byte for byte: it would be two votes of one model; leave one out."
                if file.resolve() != groups[first][0].resolve()
                else f"{file} is given twice: it would be two votes of one model; leave one out."
            )


def _sample(file: Path) -> tuple[int, str]:
    """A file's size and a digest of parts of it."""
    size, digest = file.stat().st_size, sha256()
    with file.open("rb") as stream:
        for part in range(65):
            stream.seek(max(size - 4096, 0) * part // 64)
            digest.update(stream.read(4096))
    return size, digest.hexdigest()


def _written(merged: Iterator[Item], writer: DeltaWriter) -> Iterator[Item]:
    for name, delta in merged:
        writer.put(name, delta)
        yield name, delta
        del delta  # its memory serves the next one
    writer.finish()  # before the model's file appears: both are there, or neither


def _done(base: str | Path, delta: str | Path, scale: float, model: Output, out: Path, started: float) -> Json:
    return {
        "base": str(base),
        "delta": str(delta),
        "scale": scale,
        "out": str(out),
        "seconds": time.perf_counter() - started,
        "notes": list(model.notes),
    }
