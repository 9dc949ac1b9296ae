"""The Fine-tune page's answers: what is chosen, what its recipes cost, how far candidates are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import gradio as gr

from negmerge_kit.app import own_weights
from negmerge_kit.app.buttons import progress_of
from negmerge_kit.app.finetune_runs import STOPPED, Cost, FinetuneRuns, Run
from negmerge_kit.app.grid_rows import preset_rows, recipes_of
from negmerge_kit.app.jobs import CancelledError, Done, Job, JobProgress
from negmerge_kit.app.plans import Plan, checked_families, checked_name
from negmerge_kit.app.requests import session
from negmerge_kit.app.templates import duration, notice, plural, progress, render
from negmerge_kit.app.uploads import Taken
from negmerge_kit.data.transform import left_out
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.models.tiny_clip import TINY
from negmerge_kit.plots import svg
from negmerge_kit.plots.loss_curves import loss_curves, loss_finding
from negmerge_kit.training.recipe import Recipe

OWN, FAMILY = "images of your own", "an embedded family"


class FinetunePage:
    """The page's handlers; in a public app each of them refuses every call."""

    def __init__(self, tunes: FinetuneRuns) -> None:
        self.tunes = tunes

    def choose(
        self,
        visitor: str,
        kind: object,
        archive: object,
        files: object,
        paths: object,
        name: object,
        keep: object,
        family: object,
        base: object = None,
        tuned: object = None,
        arch: object = TINY,
        as_viewed: object = True,
    ) -> Iterator[tuple[str, str]]:
        """(progress, summary or notice; the plan's id once there is one) while all is checked and put in place."""
        uploads, plans = self.tunes.uploads, self.tunes.plans
        uploads.check_allowed()
        if kind == OWN:  # what is misspelt is said before thousands of images are checked
            checked_name(name), checked_families(keep)
        elif kind != FAMILY:
            raise ParameterError(f"choose {OWN} or {FAMILY}.")
        if tuned and not base:
            raise ParameterError("candidates need the base that they were fine-tuned from: send it, too.")

        def take(job: Job) -> tuple[Plan, Taken | None]:
            with ExitStack() as held:
                sent = own = None
                if base:
                    weights = [base, *(tuned if isinstance(tuned, list) else [])]
                    sent = own_weights.taken(held.enter_context(uploads.arrived(weights)), arch)
                    own = sent.base
                images = None
                if kind == OWN:
                    several = None if archive else paths
                    images = held.enter_context(uploads.images(archive or files, several, report=job.report))
                    plan = plans.of_images(images, name, keep, own, as_viewed=as_viewed)
                else:
                    plan = plans.of_family(family, own)
                return own_weights.opened(plan, sent, job.report) if sent else plan, images

        for news in self.tunes.pools.jobs.follow(visitor, object(), take):
            if isinstance(news, JobProgress):
                yield progress_of(news), ""
            elif isinstance(news, Done):
                plan, images = news.result
                if plan.candidates:
                    self.tunes.open(plan.id)
                yield summary(plan, images), plan.id

    def stays(self, plan: object) -> str:
        """The name of what is chosen, while something else is checked or has been refused."""
        try:
            return render("finetune.stays", self.tunes.plans.read(plan).scene.name) if plan else ""
        except NegmergeError:
            return ""

    def preset(self, plan: object, preset: object) -> list[list[Any]]:
        """The preset's rows, as long as they should be for the plan's images."""
        return preset_rows(preset, self.tunes.plans.read(plan).images if plan else 700)

    def estimate(self, plan: object, rows: object) -> str:
        """What the table would cost, or what is wrong with it."""
        try:
            self.tunes.uploads.check_allowed()
            recipes = recipes_of(rows)
            if not plan:
                asked = plural(len(recipes), "candidate")
                return progress(f"{asked}. Choose what should be forgotten to see the cost.")
            begun = self.tunes.plans.read(plan)
            lacking = begun.lacking(recipes)
            return estimate(begun, lacking, self.tunes.cost(begun, lacking))
        except NegmergeError as error:
            return notice(str(error))

    def start(self, plan: object, rows: object, address: object, anyway: object = False) -> None:
        """Fine-tune the table's recipes.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        if not plan:
            raise ParameterError("say first what should be forgotten: choose images or a family in step 1.")
        self.tunes.start(plan, recipes_of(rows), address, anyway=anyway)

    def resume(self, plan: object, address: object, anyway: object = False) -> None:
        """Go on with the recipes that a plan has.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        self.tunes.start(plan, (), address, anyway=anyway)

    def look(self, drawn: object) -> tuple[str, Any, str, bool]:
        """(how far the run is, its figure unless it is as `drawn` says, what is drawn now, whether more will come)."""
        run = self.tunes.run
        if run is None:
            return offer(self.tunes.plans.unfinished()), gr.skip(), "", False
        more_to_come = not run.ended  # asked first: what ends meanwhile is shown by the next look
        now = version(run)
        figure = gr.skip() if now == drawn else losses(run)
        return status(run), figure, now, more_to_come

    def begun(self) -> list[tuple[str, str]]:
        """(line, id) of all that this page has begun."""
        plans = self.tunes.plans
        return [(line(plans.read(id)), id) for id in plans.ids()]

    # --- handlers that answer with more than text ---------------------------------------------------

    def use(self, request: gr.Request, *values: Any) -> Iterator[Any]:
        """[use, cancel, summary, plan, uploads...] while what is chosen is checked; the values end in the plan's id."""
        still = [gr.skip()] * 4  # the uploads
        busy = gr.Button(interactive=False), gr.Button(interactive=True)  # each time, as in JobButtons
        shown: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *busy, *shown, *still
        *asked, chosen = values
        stays = self.stays(chosen)  # what Fine-tune begins until there is another
        try:
            for html, id in self.choose(session(request), *asked):
                shown = html if id else html + stays, id or gr.skip()
                yield *busy, *shown, *still
        except CancelledError as error:
            shown = notice(str(error), "hint") + stays, gr.skip()
        except NegmergeError as error:
            shown = notice(str(error)) + stays, gr.skip()
        # What was sent is gone by now, whatever became of it.
        yield gr.Button(interactive=True), gr.Button(interactive=False), *shown, *[None] * 4

    def cancel(self, request: gr.Request) -> None:
        """Check no further."""
        self.tunes.pools.jobs.cancel(session(request))

    def watch(self, seen: object, chosen: object = None) -> list[Any]:
        """[progress, losses, what is drawn, timer, start, stop, list of what was begun] of the run."""
        text, figure, now, more_to_come = self.look(seen)
        choices = self.begun()
        ids = [id for _, id in choices]
        newest = self.tunes.run.plan.id if self.tunes.run else ids[0] if ids else None
        # What is chosen is left alone: it may have changed since this was asked.
        value = {} if chosen in ids else {"value": newest}
        return [
            text,
            figure,
            now,
            gr.Timer(active=more_to_come),
            gr.Button(interactive=not more_to_come),
            gr.Button(interactive=more_to_come),
            gr.Radio(choices=choices, **value),
        ]


def summary(plan: Plan, taken: Taken | None = None) -> str:
    """What a plan forgets and keeps."""
    notes: Sequence[str] = ()
    if taken:
        seen = {"turned": taken.turned, "transparent": taken.transparent}
        notes = left_out(seen, plan.scene.orientation, plan.scene.transparency)
    return render("finetune.summary", plan, taken, notes)


def estimate(plan: Plan, recipes: Sequence[Recipe], cost: Cost) -> str:
    """What the recipes that the pool lacks cost before anything is started."""
    if not recipes:
        return progress("The pool has all of these candidates already.")
    times = map(duration, (cost.training + cost.scoring, cost.training, cost.scoring))
    asked, epochs = plural(len(recipes), "candidate"), sum(recipe.epochs for recipe in recipes)
    return render("finetune.estimate", asked, epochs, plan.images, *times, cost.disk)


def offer(unfinished: Sequence[Plan]) -> str:
    """What an app that was ended has left to go on with."""
    if not unfinished:
        return ""
    text = "; ".join(f"{plan.scene.name} has {plan.done} of {len(plan.recipes)} candidates" for plan in unfinished[:3])
    return notice(f"Unfinished: {text}. Choose it below and press Resume.", "hint")


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
    now = run.job.progress if run.job else None
    if run.stopped:
        return failed + progress(counted, run.share, "Stopping after the step under way.")
    left = f"about {duration(run.left)} left" if run.left is not None else ""
    hint = " · ".join(part for part in (now.message if now else "", left) if part)
    return failed + progress(counted, run.share, hint)


def version(run: Run) -> str:
    """What changes whenever the figure would: the run and the steps that it has taken."""
    return f"{run.began} {sum(len(curve.losses) for curve in list(run.curves.values()))}"


def losses(run: Run) -> str:
    """The figure of a run's losses; nothing before the first step."""
    curves = list(run.curves.values())
    if not curves:
        return ""
    return render("finetune.losses", svg.inline(loss_curves(curves), loss_finding(curves), name="losses"))


def line(plan: Plan) -> str:
    """A plan in the list of those that were begun."""
    if not plan.recipes:
        count = plan.candidates
        return f"{plan.scene.name}: {count} of your own" if count else f"{plan.scene.name}: nothing yet"
    return f"{plan.scene.name}: {plan.done} of {len(plan.recipes)} candidates"
