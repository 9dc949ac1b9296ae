"""The Fine-tune page's pieces of HTML. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from negmerge_kit.lab.training.recipe import Recipe
from negmerge_kit.views import svg
from negmerge_kit.views.losses import loss_curves, loss_finding
from negmerge_kit.vision.data.transform import left_out
from negmerge_kit.web.finetuning import STOPPED, Cost, Run
from negmerge_kit.web.fragments import notice, plural, progress
from negmerge_kit.web.plans import Plan
from negmerge_kit.web.uploads import Taken

NOTHING = (
    '<p class="nm-fine">Nothing is begun yet. Say above what should be forgotten and press “Use this”: from then on it '
    "is listed here, to be resumed, or opened on Unlearn.</p>"
)
"""Under Begun here until there is something."""


def summary(plan: Plan, taken: Taken | None = None) -> str:
    """What a plan forgets and keeps."""
    kept = f"Kept: {escape(', '.join(plan.scene.retain))}."
    if count := plan.candidates:
        there = "One candidate is" if count == 1 else f"{count} candidates are"
        kept += f" {there} there already: see Begun here, or fine-tune more."
    if taken is None:
        return (
            f'<p class="nm-fine" role="status"><b>{escape(plan.scene.name)}</b>: candidates learn from {plan.images:,} '
            f"images. {kept}</p>"
        )
    classes = ", ".join(f"{escape(name.replace('_', ' '))} {count:,}" for name, count in taken.classes)
    left = f" {taken.left_out} files of the system’s own were left out." if taken.left_out else ""
    seen = {"turned": taken.turned, "transparent": taken.transparent}
    left += "".join(
        f" {escape(sentence, quote=False)}"
        for sentence in left_out(seen, plan.scene.orientation, plan.scene.transparency)
    )
    return (
        f'<p class="nm-fine" role="status"><b>{escape(plan.scene.name)}</b>: {taken.images:,} images in '
        f"{len(taken.classes)} classes ({classes}), of which candidates learn from {plan.images:,}.{left} {kept}</p>"
    )


def stays(plan: Plan) -> str:
    """What is chosen still."""
    return f'<p class="nm-fine">Until then <b>{escape(plan.scene.name)}</b> stays chosen.</p>'


def estimate(plan: Plan, recipes: Sequence[Recipe], cost: Cost) -> str:
    """What the recipes that the pool lacks cost before anything is started."""
    if not recipes:
        return '<p class="nm-fine" role="status">The pool has all of these candidates already.</p>'
    asked, epochs = plural(len(recipes), "candidate"), sum(recipe.epochs for recipe in recipes)
    together = duration(cost.training + cost.scoring)
    return (
        f'<p class="nm-fine" role="status"><b>{asked}</b>, {epochs:,} epochs of {plan.images:,} images: about '
        f"<b>{together}</b> on this machine, {duration(cost.training)} of training and {duration(cost.scoring)} of "
        f"searching each one’s own scale; {cost.disk / 2**20:.0f} MB of disk.</p>"
    )


def offer(unfinished: Sequence[Plan]) -> str:
    """What an app that was ended has left to go on with."""
    if not unfinished:
        return ""
    told = "; ".join(f"{plan.scene.name} has {plan.done} of {len(plan.recipes)} candidates" for plan in unfinished[:3])
    return notice(f"Unfinished: {told}. Choose it below and press Resume.", "hint")


def status(run: Run) -> str:
    """How far a run is."""
    counted = f"{run.done} of {len(run.plan.recipes)} candidates of {run.plan.scene.name} are done"
    failed = "".join(notice(sentence) for sentence in run.failures[:3])
    if run.error:
        return failed + notice(run.error)
    if run.ended and run.pool:
        return failed + notice(f"{counted}. “Open on Unlearn” merges and subtracts them.", "hint")
    if run.ended:
        return failed + notice(f"{counted}. {STOPPED}", "hint")
    told = run.job.progress if run.job else None
    if run.stopped:
        return failed + progress(counted, run.share, "Stopping after the step under way.")
    left = f"about {duration(run.left)} left" if run.left is not None else ""
    hint = " · ".join(part for part in (told.message if told else "", left) if part)
    return failed + progress(counted, run.share, hint)


def version(run: Run) -> str:
    """What changes whenever the figure would: the run and the steps that it has taken."""
    return f"{run.began} {sum(len(curve.losses) for curve in list(run.curves.values()))}"


def losses(run: Run) -> str:
    """The figure of a run's losses; nothing before the first step."""
    curves = list(run.curves.values())
    if not curves:
        return ""
    figure = svg.inline(loss_curves(curves), loss_finding(curves), name="losses")
    return (
        '<section class="nm-card"><div class="nm-scroll" tabindex="0" role="region" aria-label="losses">'
        f'<div class="nm-paper nm-slim">{figure}</div></div></section>'
    )


def line(plan: Plan) -> str:
    """A plan in the list of those that were begun."""
    if not plan.recipes:
        count = plan.candidates
        return f"{plan.scene.name}: {count} of your own" if count else f"{plan.scene.name}: nothing yet"
    return f"{plan.scene.name}: {plan.done} of {len(plan.recipes)} candidates"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(41.2), duration(600), duration(9000)
    ('41 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
