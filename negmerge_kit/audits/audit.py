"""An audit: every probe run on one unlearned model, the base, a floor and, if given, a retrained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from negmerge_kit.audits.confidence import confidence
from negmerge_kit.audits.context import AuditContext, Members, ProbedModel, SharedModel, shuffled
from negmerge_kit.audits.linear_probe import linear_probe
from negmerge_kit.audits.membership import membership
from negmerge_kit.audits.nearest_neighbours import nearest_neighbours
from negmerge_kit.audits.other_prompts import other_prompts
from negmerge_kit.audits.probe import FLOORS, LEFTOVER, NONE, OPEN, Probe, alarms_first
from negmerge_kit.audits.quantisation import quantisation
from negmerge_kit.audits.relearning import relearning
from negmerge_kit.audits.zero_shot import control_families, nearest_wrong_class, zero_shot
from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.errors import MismatchError, ParameterError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json, Weights
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

PROBES: dict[str, Callable[[AuditContext], Iterator[Probe]]] = {
    "zero-shot": zero_shot,
    "linear": linear_probe,
    "neighbours": nearest_neighbours,
    "prompts": other_prompts,
    "wrong-class": nearest_wrong_class,
    "confidence": confidence,
    "membership": membership,
    "controls": control_families,
    "quantisation": quantisation,
    "relearning": relearning,
}
"""What an audit asks, in order, by the names that `--probes` takes."""

LIMITS = (
    "No audit proves deletion: a probe at the level of its floor shows only that this probe reads no more, on these "
    "images."
)


@dataclass(frozen=True)
class Audit:
    """Results of all probes of one unlearned model, sorted by how much of the base's knowledge is left."""

    scale: float | None
    probes: tuple[Probe, ...]
    seconds: float

    @property
    def leftover(self) -> list[str]:
        """The probes that found knowledge of the forget set."""
        return [probe.name for probe in self.probes if probe.verdict == LEFTOVER]

    @property
    def headline(self) -> str:
        """The most alarming number, with the floor and the base that it is read against."""
        lead = next((probe for probe in self.probes if probe.floor is not None), None)
        if lead is None or lead.floor is None:
            return "The probes that were asked describe the model; how much is left, others measure."
        read, base, left = lead.measurements["unlearned"], lead.measurements["base"], lead.left
        floor, known = f"{FLOORS[lead.floor[0]]}, {_percent(lead.floor[1])}", f"the base, {_percent(base.value)}"
        number = (
            f"{lead.name[0].upper()}{lead.name[1:]}: {_percent(read.value)} (95 % interval "
            f"{100 * read.low:.1f}-{100 * read.high:.1f}, n = {read.n:,})"
        )
        if left is None:
            return f"{number}; {known}, is at the level of {floor}, so this probe cannot measure what is left."
        if left.low <= 0:
            return f"{number}, at the level of {floor}; {known}."
        return f"{number}, {100 * left.value:.0f} % of the way from {floor}, to {known}."

    @property
    def finding(self) -> str:
        """The headline, and which probes came to which verdict."""
        kinds = {
            LEFTOVER: "Knowledge is left by: {}.",
            OPEN: "Undecided without a retrained model: {}.",
            NONE: "At the level of the floor: {}.",
        }
        sentences = [self.headline]
        for verdict, sentence in kinds.items():
            if names := [probe.name for probe in self.probes if probe.verdict == verdict]:
                sentences.append(sentence.format(", ".join(names)))
        return " ".join(sentences)

    def json(self) -> Json:
        """`{"scale", "probes": [...]}` of the JSON contract, and the finding in words."""
        return {
            "scale": self.scale,
            "probes": [probe.json() for probe in self.probes],
            "leftover": self.leftover,
            "headline": self.headline,
            "finding": self.finding,
            "limits": LIMITS,
            "seconds": self.seconds,
        }


def audit(
    bench: Workbench,
    choice: Choice | None = None,
    scale: float | None = None,
    *,
    unlearned: Weights | None = None,
    retrained: Weights | None = None,
    probes: Sequence[str] = tuple(PROBES),
    steps: int = 60,
    seed: int = 0,
    on_probe: Callable[[Probe], None] = lambda probe: None,
) -> Audit:
    """Run the probes of forgetting on an unlearned model.

    Args:
        bench: the pool: base, heads, images.
        choice, scale: the merge under audit, its scale chosen on validation before.
        unlearned: another unlearned model's whole key set, in place of choice and scale.
        retrained: the key set of a model trained without the forget set, the reference of every verdict.
        probes: names of PROBES.
        steps: fine-tuning steps that relearning may take.
        seed: of draws and resamples.
        on_probe: called with each answer.

    Raises:
        ParameterError: for an unknown probe, no step, neither choice with scale nor `unlearned`, or a standard
            classifier, whose probes are other ones.
        MismatchError: for weights that do not hold the base's tensors.
        SceneError: for a class without images.
        CheckpointError: for a model that answers with NaN.
    """
    check_asked(probes, steps)
    if bench.scene.own_head:
        raise ParameterError(
            f"{bench.scene.name} is a standard classifier's scene, and these probes ask models with "
            "heads apart: `negmerge compare` attacks its models for membership."
        )
    started = time.perf_counter()
    model = bench.fresh_model()
    base = model.weights("cpu")
    if unlearned is None:
        if choice is None or scale is None:
            raise ParameterError("nothing to audit: give a choice and its scale, or the weights of an unlearned model.")
        unlearned = dict(bench.unlearned(choice, scale))
    else:
        scale = None
    shared = SharedModel(model)
    known = ProbedModel("base", base, model.heads, shared)
    models = {"base": known, "unlearned": _probed(bench, shared, "unlearned", unlearned, known, around=known)}
    if retrained is not None:
        models["retrained"] = _probed(bench, shared, "retrained", retrained, known)
    tower = "visual." if model.has_text else ""
    models["shuffled"] = ProbedModel("shuffled", shuffled(base, tower=tower, seed=seed), known.heads, shared)
    context = build_context(bench, models, steps=steps, seed=seed)
    answers = []
    for name in (name for name in PROBES if name in probes):
        for probe in PROBES[name](context):
            answers.append(probe)
            on_probe(probe)
    return Audit(scale, tuple(alarms_first(answers)), time.perf_counter() - started)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def check_asked(probes: Sequence[str], steps: int = 1) -> None:
    """Validate the probes' names and the steps before anything is computed.

    Raises:
        ParameterError: for an unknown probe, or no step of relearning.

    >>> check_asked(["linear", "relearning"], steps=10)
    """
    if unknown := sorted(set(probes) - set(PROBES)):
        raise ParameterError(f"there is no probe {unknown[0]!r}: choose among {', '.join(PROBES)}.")
    if not probes or steps < 1:
        raise ParameterError("there is nothing to ask: name at least one probe, and give relearning at least one step.")


def build_context(
    bench: Workbench, models: Mapping[str, ProbedModel], *, steps: int = 60, seed: int = 0
) -> AuditContext:
    """The context of a pool's scene: its images, its prompts, and relearning at the median rate of its candidates."""
    test = bench.images("test")
    known = [recipe for recipe in bench.pool.recipes.values() if "lr" in recipe]  # others were fine-tuned elsewhere
    recipes = [Recipe.from_json(recipe) for recipe in known] or [Recipe(lr=1e-3, epochs=1)]
    rate = median(recipe.lr for recipe in recipes)
    return AuditContext(
        models,
        bench.scene.images("train").forget.to(bench.model.device),
        bench.images("val"),
        test,
        {source.name: source.templates for source in bench.scene.sources},
        replace(recipes[0], lr=rate),
        members=_members(bench),
        seed=seed,
        steps=steps,
    )


def _probed(
    bench: Workbench,
    shared: SharedModel,
    name: str,
    weights: Weights,
    base: ProbedModel,
    *,
    around: ProbedModel | None = None,
) -> ProbedModel:
    """A model with the base's frozen heads; new ones where its text tower differs or it was retrained."""
    known = base.weights
    if set(weights) != set(known) or any(weights[key].shape != known[key].shape for key in known):
        raise MismatchError(
            f"the {name} model does not hold the base's tensors: give a checkpoint of this pool's model."
        )
    probed = ProbedModel(name, weights, base.heads, shared, around=around)
    texts = (key for key in known if not key.startswith("visual."))
    own = any(not torch.equal(weights[key].cpu(), known[key]) for key in texts) if shared.model.has_text else not around
    if own:
        model, scene = probed.shown(), bench.scene
        for source in scene.sources:
            if model.has_text:
                model.add_head(source.name, source.classes, source.templates)
            else:
                split = "train" if "train" in source.splits else "val"
                model.add_prototypes(source.images(split, image_size=scene.transform, corrupt=scene.corrupt))
        probed.heads = {head: weight.cpu() for head, weight in model.heads.items()}
    return probed


def _members(bench: Workbench) -> Members | None:
    """The embedded base's pretraining images: the only ones that anybody knows.

    As many kept images as the test split has, of each family; every forget image once, however often it was shown.
    """
    scene = bench.scene
    if scene.model != "tiny" or not {scene.forget, *scene.retain} <= FAMILIES.keys():
        return None
    seen = [family_images(name, "pretrain").take(len(family_images(name, "test"))) for name in scene.retain]
    forget = family_images(scene.forget, "pretrain")
    once = np.unique(forget.images.flatten(1).numpy(), axis=0, return_index=True)[1]
    rows = torch.from_numpy(np.sort(once))
    forget = ImageSet(forget.name, forget.images[rows], forget.labels[rows], forget.classes, forget.split)
    device = bench.model.device
    return Members(tuple(images.to(device) for images in seen), bench.images("test").retain, forget.to(device))
