"""The Fine-tune page: a scene of one's own, a table of recipes, and candidates as they learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gradio as gr

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.vision.data.embedded import FAMILIES
from negmerge_kit.vision.tiny import TINY
from negmerge_kit.web import finetune_told, fragments, own_weights
from negmerge_kit.web.finetuning import FineTunes
from negmerge_kit.web.grid_rows import COLUMNS, PRESETS, another_row, one_less, preset_rows, recipes_of
from negmerge_kit.web.job_buttons import LIGHT
from negmerge_kit.web.jobs import CancelledError, Done, Job, JobProgress
from negmerge_kit.web.plans import Plan, checked_families, checked_name
from negmerge_kit.web.told import told
from negmerge_kit.web.uploads import Taken

OWN, FAMILY = "images of your own", "an embedded family"
FIRST_PRESET = next(iter(PRESETS))

FOLDER_JS = """
window.nmChosen = window.nmChosen || [];
if (!window.nmListens) {
  window.nmListens = true;
  document.addEventListener('change', event => {
    if (event.target.type === 'file' && event.target.webkitdirectory)
      window.nmChosen = [...event.target.files].map(
        f => ({path: f.webkitRelativePath || f.name, name: f.name, size: f.size}));
  }, true);
}
"""
"""Notes the path of every file in a chosen folder, of which gradio sends the last part only."""

WITH_PATHS = """(kind, zip, folder, paths, ...rest) => {
  const left = [...(window.nmChosen || [])];
  const named = (folder || []).map(file => {
    const place = left.findIndex(f => f.name === file.orig_name && (file.size == null || f.size === file.size));
    return place < 0 ? String(file.orig_name) : left.splice(place, 1)[0].path;
  });
  return [kind, zip, folder, named, ...rest];
}"""
"""Sends those paths along with the files, in the files' order."""


class FinetunePage:
    """The page's handlers; all of them refuse in a public app, whoever calls."""

    def __init__(self, tunes: FineTunes) -> None:
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
        if kind == OWN:  # what is misspelt is told before thousands of images are checked
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
                yield fragments.progress(news.message, news.fraction or 0.0, news.hint), ""
            elif isinstance(news, Done):
                plan, images = news.result
                if plan.candidates:
                    self.tunes.open(plan.id)
                yield finetune_told.summary(plan, images), plan.id

    def stays(self, plan: object) -> str:
        """The name of what is chosen, while something else is checked or has been refused."""
        try:
            return finetune_told.stays(self.tunes.plans.read(plan)) if plan else ""
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
                asked = fragments.plural(len(recipes), "candidate")
                return fragments.progress(f"{asked}. Choose what should be forgotten to see the cost.")
            begun = self.tunes.plans.read(plan)
            lacking = begun.lacking(recipes)
            return finetune_told.estimate(begun, lacking, self.tunes.cost(begun, lacking))
        except NegmergeError as error:
            return fragments.notice(str(error))

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
            return finetune_told.offer(self.tunes.plans.unfinished()), gr.skip(), "", False
        now = finetune_told.version(run)
        figure = gr.skip() if now == drawn else finetune_told.losses(run)
        return finetune_told.status(run), figure, now, not run.ended

    def begun(self) -> list[tuple[str, str]]:
        """(line, id) of all that this page has begun."""
        plans = self.tunes.plans
        return [(finetune_told.line(plans.read(id)), id) for id in plans.ids()]


def lay_out(page: FinetunePage, tab: gr.Tab) -> None:
    """Build the page within its tab and connect it; in a public app there is nothing to press or to send."""
    try:
        page.tunes.uploads.check_allowed()
    except ParameterError as error:
        with gr.Column(elem_classes="nm-page"):
            gr.HTML(fragments.notice(str(error), "hint"), elem_id="nm-no-finetune")
        return
    with gr.Column(elem_classes="nm-page"):
        plan, drawn, timer = gr.State(""), gr.State(""), gr.Timer(1.0, active=False)
        with gr.Row(elem_classes="nm-pair"):
            scene = _step_scene()
            with gr.Column(elem_classes="nm-card", elem_id="nm-grid"):
                gr.HTML(fragments.heading(2, "With which recipes?"))
                preset = gr.Dropdown(
                    list(PRESETS),
                    value=FIRST_PRESET,
                    label="Start from",
                    elem_id="nm-preset",
                    interactive=True,
                    filterable=False,
                )
                table = gr.Dataframe(
                    preset_rows(FIRST_PRESET, 700),
                    headers=list(COLUMNS),
                    datatype=["str"] * len(COLUMNS),
                    type="array",
                    row_count=2,
                    column_count=len(COLUMNS),
                    interactive=True,
                    wrap=False,
                    show_label=False,
                    label="recipes",
                    elem_id="nm-recipes",
                    buttons=[],
                )
                with gr.Row(elem_classes="nm-buttons"):
                    more, fewer = gr.Button("Add a row", size="sm"), gr.Button("Remove the last row", size="sm")
                cost = gr.HTML("", elem_id="nm-cost")
                with gr.Accordion("On a Ray cluster", open=False):
                    address = gr.Textbox(
                        "",
                        label="Address",
                        placeholder="auto, or HOST:PORT",
                        elem_id="nm-ray",
                        info="Leave it empty to train on this machine.",
                        max_length=300,
                    )
                anyway = gr.Checkbox(
                    False,
                    label="Even if the base does not know it",
                    elem_id="nm-anyway",
                    info="Else nothing is trained where the base guesses.",
                )
                with gr.Row(elem_classes="nm-buttons"):
                    start = gr.Button("Fine-tune", variant="primary", elem_id="nm-finetune")
                    stop = gr.Button("Stop", size="sm", interactive=False, elem_id="nm-finetune-stop")
        progress = gr.HTML("", elem_id="nm-finetune-progress", elem_classes="nm-told")
        losses = gr.HTML("", elem_id="nm-losses")
        with gr.Column(elem_classes="nm-card", elem_id="nm-begun"):
            gr.HTML("<h2>Begun here <small>kept in your cache, also when the app ends</small></h2>")
            gr.HTML(finetune_told.NOTHING, elem_id="nm-begun-none")
            begun = gr.Radio([], label="Pools", show_label=False, elem_id="nm-begun-list")
            with gr.Row(elem_classes="nm-buttons"):
                resume = gr.Button("Resume", size="sm", elem_id="nm-resume")
                to_unlearn = gr.Button("Open on Unlearn", size="sm", elem_id="nm-open")
        opened = gr.Textbox("", visible="hidden", label="opened")
    watched = [progress, losses, drawn, timer, start, stop, begun]

    def look(seen: object, chosen: object = None) -> list[Any]:
        told_now, figure, now, more_to_come = page.look(seen)
        choices = page.begun()
        ids = [id for _, id in choices]
        newest = page.tunes.run.plan.id if page.tunes.run else ids[0] if ids else None
        # What is chosen is left alone: it may have changed since this was asked.
        value = {} if chosen in ids else {"value": newest}
        return [
            told_now,
            figure,
            now,
            gr.Timer(active=more_to_come),
            gr.Button(interactive=not more_to_come),
            gr.Button(interactive=more_to_come),
            gr.Radio(choices=choices, **value),
        ]

    def shown(trigger: Any, **options: Any) -> Any:
        return trigger(told(look), [drawn, begun], watched, **options, **LIGHT)

    _connect_scene(page, scene, plan)
    shown(tab.select, trigger_mode="always_last")
    shown(timer.tick, trigger_mode="once")
    rows = {"inputs": [plan, preset], "outputs": table}
    gr.on([preset.change, plan.change], told(page.preset), **rows, **LIGHT)
    more.click(told(another_row), table, table, **LIGHT)
    fewer.click(told(one_less), table, table, **LIGHT)
    changes = [table.change, plan.change, tab.select]
    gr.on(changes, page.estimate, [plan, table], cost, trigger_mode="always_last", **LIGHT)
    # After a refusal, too: another tab may have begun or stopped what this one does not know of yet.
    shown(start.click(told(page.start), [plan, table, address, anyway], None, **LIGHT).then)
    shown(stop.click(told(page.tunes.stop), None, None, **LIGHT).then)
    shown(resume.click(told(page.resume), [begun, address, anyway], None, **LIGHT).then)
    shown(plan.change)
    to_unlearn.click(told(page.tunes.open), begun, opened, **LIGHT).success(
        None,
        opened,
        None,
        js="id => { window.location.href = '?pool=' + encodeURIComponent(id); }",
        api_visibility="private",
    )


def _step_scene() -> dict[str, Any]:
    with gr.Column(elem_classes="nm-card", elem_id="nm-scene"):
        gr.HTML(fragments.heading(1, "What should be forgotten?"), js_on_load=FOLDER_JS)
        kind = gr.Radio([OWN, FAMILY], value=OWN, show_label=False, label="Source", elem_id="nm-kind")
        with gr.Column(visible=True) as own:
            with gr.Row(elem_classes="nm-pair nm-files"):
                archive = gr.File(file_types=[".zip"], label="A zip", height=120, elem_id="nm-zip")
                folder = gr.File(file_count="directory", label="or a folder", height=120, elem_id="nm-folder")
            gr.HTML(
                '<p class="nm-fine">One sub-folder of images for each class, named as one would say it; with '
                "train, val and test folders, or without. They stay on this app’s machine.</p>"
            )
            as_viewed = gr.Checkbox(
                True,
                label="As a viewer shows them",
                elem_id="nm-as-viewed",
                info="Upright by their EXIF, transparent parts on white; else as stored, which torchvision reads.",
            )
            name = gr.Textbox("my-images", label="Name", max_length=60, elem_id="nm-name")
            keep = gr.CheckboxGroup(
                list(FAMILIES),
                value=list(FAMILIES),
                label="Keep",
                elem_id="nm-families",
                info="What the embedded model should still know; leave out what is much alike.",
            )
        with gr.Column(visible=False) as embedded:
            family = gr.Dropdown(
                list(FAMILIES),
                value=next(iter(FAMILIES)),
                label="Family",
                interactive=True,
                info="The six others are kept.",
                elem_id="nm-family",
            )
        with gr.Accordion("With a model of your own", open=False, elem_id="nm-weights"):
            with gr.Row(elem_classes="nm-pair nm-files"):
                base = gr.File(file_types=[".safetensors"], label="Its base", height=120, elem_id="nm-base")
                tuned = gr.File(
                    file_count="multiple",
                    file_types=[".safetensors"],
                    label="Candidates",
                    height=120,
                    elem_id="nm-tuned",
                )
            arch = gr.Textbox(
                TINY,
                label="Architecture",
                max_length=80,
                elem_id="nm-arch",
                info="As open_clip calls it. Candidates may also be fine-tuned here.",
            )
        with gr.Row(elem_classes="nm-buttons"):
            use = gr.Button("Use this", variant="primary", elem_id="nm-use")
            cancel = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-use-stop")
        summary = gr.HTML("", elem_id="nm-scene-told")
        paths = gr.JSON([], visible="hidden", label="paths")
    return {
        "kind": kind,
        "own": own,
        "archive": archive,
        "folder": folder,
        "paths": paths,
        "name": name,
        "keep": keep,
        "embedded": embedded,
        "family": family,
        "base": base,
        "tuned": tuned,
        "arch": arch,
        "as_viewed": as_viewed,
        "use": use,
        "cancel": cancel,
        "summary": summary,
    }


def _connect_scene(page: FinetunePage, scene: dict[str, Any], plan: gr.State) -> None:
    use, cancel = scene["use"], scene["cancel"]

    def run(request: gr.Request, *values: Any) -> Iterator[Any]:
        still = [gr.skip()] * 4  # the uploads
        busy = gr.Button(interactive=False), gr.Button(interactive=True)  # each time, as in job_buttons
        shown: tuple[Any, Any] = gr.skip(), gr.skip()
        yield *busy, *shown, *still
        *asked, chosen = values
        stays = page.stays(chosen)  # what Fine-tune begins until there is another
        try:
            for html, id in page.choose(str(request.session_hash), *asked):
                shown = html if id else html + stays, id or gr.skip()
                yield *busy, *shown, *still
        except CancelledError as error:
            shown = fragments.notice(str(error), "hint") + stays, gr.skip()
        except NegmergeError as error:
            shown = fragments.notice(str(error)) + stays, gr.skip()
        # What was sent is gone by now, whatever became of it.
        yield gr.Button(interactive=True), gr.Button(interactive=False), *shown, *[None] * 4

    def end(request: gr.Request) -> None:
        page.tunes.pools.jobs.cancel(str(request.session_hash))

    uploads = [scene[key] for key in ("archive", "folder", "base", "tuned")]
    sent = ("kind", "archive", "folder", "paths", "name", "keep", "family", "base", "tuned", "arch", "as_viewed")
    inputs = [*(scene[key] for key in sent), plan]
    outputs = [use, cancel, scene["summary"], plan, *uploads]
    use.click(run, inputs, outputs, js=WITH_PATHS, concurrency_limit=4, **LIGHT).then(
        lambda: (gr.Button(interactive=True), gr.Button(interactive=False)), None, [use, cancel], **LIGHT
    )
    cancel.click(end, None, None, concurrency_limit=8, **LIGHT)
    scene["kind"].change(
        lambda kind: (gr.Column(visible=kind != FAMILY), gr.Column(visible=kind == FAMILY)),
        scene["kind"],
        [scene["own"], scene["embedded"]],
        **LIGHT,
    )
