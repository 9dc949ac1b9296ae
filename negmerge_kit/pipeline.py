"""From a pool to an unlearned checkpoint with its card, and the scores of any checkpoint on a scene."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from negmerge_kit.cards.card import BY_HAND, card, searched, with_file
from negmerge_kit.cards.files import card_files, card_path, check_card, run_from
from negmerge_kit.checkpoints.overwrite_guard import CHECKPOINT, check_output
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import ParameterError, SceneError
from negmerge_kit.pools.pool import RECORD, Pool, open_pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scoring.early_stopping import Scales
from negmerge_kit.scoring.retention_floor import KEEP, Keep
from negmerge_kit.scoring.scale_search import Method, ScaleSearch, outcome, remedy
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.evaluation import Scores, evaluate_splits
from negmerge_kit.unlearning.workbench import Workbench

if TYPE_CHECKING:
    from negmerge_kit.classifier_eval.retrained_model import RetrainedModel


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search: candidates, rule and how the scale is chosen.

    Args:
        rule: one of RULES.
        params: the rule's parameters that are not as by default.
        candidates: ids of the pool; None for all, a copy of another left out.
        buffers: what becomes of BatchNorm statistics: "keep", "merge" or "recalibrate".
        keep: share of the base's retain accuracy to keep, in (0, 1]: pooled, or by retain set.
        scales: these and no others, each 0 or more; None for the paper's grid, and on beyond it (see `search_scale`).
        method: one of METHODS.
        choose: by the retention "floor" or, for a classifier, the smallest "gap" to the pool's retrained model.
        scale: a scale to use instead of searching, 0 or more.
    """

    rule: str = "negmerge"
    params: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[str] | None = None
    buffers: str = "keep"
    keep: Keep = KEEP
    scales: Scales = None
    method: Method = "early"
    choose: Literal["floor", "gap"] = "floor"
    scale: float | None = None


DEFAULTS = SearchOptions()
"""NegMerge over all candidates, its scale searched at 95 % of the base's retention."""


@dataclass(frozen=True, eq=False)
class PoolSearch:
    """A pool's merge and the scale that was found for it.

    Attributes:
        result: the object of `search --json` (see `search_json`).
    """

    bench: Workbench
    choice: Choice
    found: ScaleSearch
    result: Json


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What `unlearn_pool` wrote.

    Attributes:
        weights, card: the files; None where no scale above 0 keeps enough, and nothing was written.
        result: the object of `unlearn --json`.
    """

    weights: Path | None
    card: Path | None
    search: PoolSearch
    result: Json


def search_pool(
    pool: Pool | str | Path, options: SearchOptions = DEFAULTS, *, test: bool = False, device: str = "auto"
) -> PoolSearch:
    """Merge a pool's candidates and find the scale that forgets most on validation with retention at its floor.

    Args:
        test: score the chosen scale once on the test split, too.

    Raises:
        PoolError: a pool that cannot be read, or a file of it that changed.
        ParameterError: an option that cannot be, as an unknown rule or candidate.
    """
    bench = Workbench(pool if isinstance(pool, Pool) else open_pool(pool), device=device)
    choice = bench.choose(options.candidates, options.rule, options.params, buffers=options.buffers)
    started, held = time.perf_counter(), None
    if options.scale is not None:
        found = bench.fixed(choice, options.scale, keep=options.keep)
    elif options.choose == "gap":
        held, found = _nearest(bench, choice, options.scales)
    else:
        found = bench.search(choice, keep=options.keep, scales=options.scales, method=options.method)
    result = search_json(bench, choice, found, test=test, started=started)
    if held is not None:
        result["retrained"] = held.json()
    if options.scale is not None:
        result["keep"] = None  # no floor was asked about
    return PoolSearch(bench, choice, found, result)


def unlearn_pool(
    pool: Pool | str | Path,
    out: str | Path,
    options: SearchOptions = DEFAULTS,
    *,
    card: str | Path | None = None,
    audit: bool = False,
    device: str = "auto",
) -> Unlearned:
    """Write the unlearned checkpoint of a pool and its card: scale chosen on validation, scored once on test.

    Args:
        out: the file to write, ending in .safetensors.
        card: where its card goes, JSON and Markdown; None for the checkpoint's own name.
        audit: probe what is left of the forget set and record it in the card.

    Raises:
        ParameterError: a wrong ending, an option that cannot be, or nothing that was forgotten; nothing is written.
        CheckpointError: a file that is there already and is no checkpoint, or is one that is read here.
        PoolError: a pool that cannot be read, or a file of it that changed.
    """
    pool = pool if isinstance(pool, Pool) else open_pool(pool)
    out = Path(out)
    page = check_outputs(out, None if card is None else Path(card), pool.read_from)
    search = search_pool(pool, options, test=True, device=device)
    result = search.result | {"out": None, "card": None}
    if result["status"] != "ok":
        return Unlearned(None, None, search, result)
    if result["scale"] == 0 and result["choose"] == "gap":
        raise ParameterError(
            "no scale above 0 is nearer to the retrained model than the base: nothing was written. "
            "Try finer --scales or other --candidates."
        )
    if result["scale"] == 0 and options.scale is None:
        raise ParameterError(f"{result['outcome']}, so nothing was written. {result['remedy']}")
    written = _write(search, out, page, by_hand=options.scale is not None, audit=audit)
    return Unlearned(written, page, search, result | {"out": str(written), "card": str(page)})


def check_outputs(out: Path, card: Path | None, inputs: Sequence[Path]) -> Path:
    """Where the card's JSON goes; what must not be written over is refused, weights or card, before the long work.

    Raises:
        ParameterError: weights whose name does not end in .safetensors.
        CheckpointError: a file that is there already and is something else, or is one of the inputs.
    """
    if out.suffix != ".safetensors":
        raise ParameterError(f"{out} has no .safetensors ending, by which loaders know the format: name it so.")
    check_output(out, CHECKPOINT, inputs)
    page = card_path(out, card)
    check_card(page, inputs)
    return page


def evaluate_file(
    file: str | Path, scene: str | Path, *, split: Literal["val", "test"] = "test", device: str = "auto"
) -> Scores:
    """Score a checkpoint on a scene's forget and retain sets.

    Args:
        file: a checkpoint with the base's key set.
        scene: a name or a FILE.toml (see `open_scene`), or the folder of the pool that it was made from.

    Raises:
        SceneError: another text tower than the scene's, whose heads would not fit.
        MismatchError: tensors that the model does not have, or tensors left out.
    """
    weights = open_checkpoint(Path(file))
    if (Path(scene) / RECORD).exists():
        bench = Workbench(open_pool(scene), device=device)
        model, images = bench.model, bench.scene.images(split)
    else:
        opened = open_scene(scene)
        model, images = opened.load(device=device), opened.images(split)
    ours = model.weights()
    model.load(weights.items())
    text = [name for name in ours if not name.startswith("visual.")] if model.has_text else []
    after = model.weights()
    if any(not after[name].equal(ours[name]) for name in text):
        raise SceneError(f"{file} has another text tower than {scene}: give the pool it was made from as --scene.")
    return evaluate_splits(model, images.to(model.device))


def _write(search: PoolSearch, out: Path, page: Path, *, by_hand: bool, audit: bool) -> Path:
    bench, choice, result = search.bench, search.choice, search.result
    probes = None
    if audit:
        from negmerge_kit.audits.audit import audit as run_audit  # brings training in, which few searches need

        probes = run_audit(bench, choice, result["scale"]).json()
    record = card(bench, choice, result, chosen=BY_HAND[0] if by_hand else searched(result), probes=probes)
    with card_files(page) as write:
        written = save_checkpoint(out, bench.unlearned(choice, result["scale"]), like=bench.pool.base, metadata=record)
        write(with_file(record, written) | run_from(bench.pool.folder, page))
    return written


def _nearest(bench: Workbench, choice: Choice, scales: Scales) -> tuple[RetrainedModel, ScaleSearch]:
    """The search by the gap and its retrained model: of several, the one that chooses in `compare`."""
    from negmerge_kit.classifier_eval.evaluator import ClassifierEvaluator
    from negmerge_kit.classifier_eval.retrained_model import ANY_RETRAINED, RetrainedSpec

    evaluator = ClassifierEvaluator(bench, chooser=ANY_RETRAINED.other)
    held = evaluator.require()
    evaluator.chooser = RetrainedSpec(sha256=held.sha256)  # this one to the end, even if another is made meanwhile
    return held, evaluator.nearest(choice, scales=scales)


def score_json(bench: Workbench, choice: Choice, scale: float, split: str = "val") -> Json:
    """`{"forget", "retain", "base", "kept_fraction", "seconds"}` of one scale on one split, scored now.

    Raises:
        ParameterError: if the scale is not a finite number of 0 or more.
        SceneError: for a split that the scene does not have.
    """
    started = time.perf_counter()
    scores, base = bench.score(choice, scale, split), bench.base_scores(split)
    return {
        **_pair(scores),
        "base": _pair(base),
        "kept_fraction": bench.merged(choice).counts.kept_fraction,
        "seconds": time.perf_counter() - started,
    }


def search_json(bench: Workbench, choice: Choice, found: ScaleSearch, *, test: bool, started: float) -> Json:
    """The object of `search --json`; with `test` the chosen scale is scored once on the test split.

    Beyond the contract: "choose" says by what the scale was chosen, "failing" which floors fail where nothing is
    feasible, "method" how the scales were searched, "range" from which scale to which, "ended" what
    ended that range upwards, and "outcome" what happened where the scale alone would mislead, with "remedy" where
    no scale above 0 was found; with a floor for each retain set, "keep" is an object and every point has "retain_sets".

    Args:
        found: what `bench.search` or `bench.fixed` answered for this choice.
        started: `time.perf_counter()` from before the search, for "seconds".
    """
    best, base, each = found.best, found.base, isinstance(found.keep, Mapping)
    return {
        "rule": choice.rule,
        "params": dict(choice.params),
        "status": found.status,
        "failing": found.failing,
        "scale": best.scale if best else None,
        "keep": found.keep,
        "choose": found.choose,
        "method": found.method,
        "range": list(found.range),
        "ended": found.ended,
        "outcome": outcome(found),
        "remedy": remedy(found),
        "base": {"forget": base.forget and base.forget.json(), "retain": base.retain and base.retain.json()},
        "forget": best.forget.json() if best and best.forget else None,
        "retain": best.retain.json() if best and best.retain else None,
        "kept_fraction": bench.merged(choice).counts.kept_fraction,
        "curve": [point.json(each=each) for point in found.curve],
        "test": on_test(bench, choice, best.scale) if test and best else None,
        "seconds": time.perf_counter() - started,
    }


def on_test(bench: Workbench, choice: Choice, scale: float) -> Json:
    """`{"base", "forget", "retain"}` on the test split, for a scale that was chosen without it."""
    return {"base": _pair(bench.base_scores("test")), **_pair(bench.score(choice, scale, "test"))}


def _pair(scores: Scores) -> Json:
    return {"forget": scores.forget.json(), "retain": scores.retain.json()}
