"""The Fine-tune page's components: a scene of one's own, a table of recipes, and candidates as they learn."""

from __future__ import annotations

from typing import Any

import gradio as gr

from negmerge_kit.app.buttons import LIGHT
from negmerge_kit.app.errors import as_gradio_error
from negmerge_kit.app.grid_rows import COLUMNS, PRESETS, another_row, one_less, preset_rows
from negmerge_kit.app.pages.finetune import FAMILY, OWN, FinetunePage
from negmerge_kit.app.templates import notice, render
from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.errors import ParameterError
from negmerge_kit.models.tiny_clip import TINY

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


def lay_out(page: FinetunePage, tab: gr.Tab) -> None:
    """Build the page within its tab and connect it; in a public app there is nothing to press or to send."""
    try:
        page.tunes.uploads.check_allowed()
    except ParameterError as error:
        with gr.Column(elem_classes="nm-page"):
            gr.HTML(notice(str(error), "hint"), elem_id="nm-no-finetune")
        return
    with gr.Column(elem_classes="nm-page"):
        plan, drawn, timer = gr.State(""), gr.State(""), gr.Timer(1.0, active=False)
        with gr.Row(elem_classes="nm-pair"):
            scene = _step_scene()
            with gr.Column(elem_classes="nm-card", elem_id="nm-grid"):
                gr.HTML(render("shared.heading", 2, "With which recipes?"))
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
        progress = gr.HTML("", elem_id="nm-finetune-progress", elem_classes="nm-message")
        losses = gr.HTML("", elem_id="nm-losses")
        with gr.Column(elem_classes="nm-card", elem_id="nm-begun"):
            gr.HTML("<h2>Begun here <small>kept in your cache, also when the app ends</small></h2>")
            gr.HTML(render("finetune.nothing"), elem_id="nm-begun-none")
            begun = gr.Radio([], label="Pools", show_label=False, elem_id="nm-begun-list")
            with gr.Row(elem_classes="nm-buttons"):
                resume = gr.Button("Resume", size="sm", elem_id="nm-resume")
                to_unlearn = gr.Button("Open on Unlearn", size="sm", elem_id="nm-open")
        opened = gr.Textbox("", visible="hidden", label="opened")
    watched = [progress, losses, drawn, timer, start, stop, begun]

    def shown(trigger: Any, **options: Any) -> Any:
        return trigger(as_gradio_error(page.watch), [drawn, begun], watched, **options, **LIGHT)

    _connect_scene(page, scene, plan)
    shown(tab.select, trigger_mode="always_last")
    shown(timer.tick, trigger_mode="once")
    rows = {"inputs": [plan, preset], "outputs": table}
    gr.on([preset.change, plan.change], as_gradio_error(page.preset), **rows, **LIGHT)
    more.click(as_gradio_error(another_row), table, table, **LIGHT)
    fewer.click(as_gradio_error(one_less), table, table, **LIGHT)
    changes = [table.change, plan.change, tab.select]
    gr.on(changes, page.estimate, [plan, table], cost, trigger_mode="always_last", **LIGHT)
    # After a refusal, too: another tab may have begun or stopped what this one does not know of yet.
    shown(start.click(as_gradio_error(page.start), [plan, table, address, anyway], None, **LIGHT).then)
    shown(stop.click(as_gradio_error(page.tunes.stop), None, None, **LIGHT).then)
    shown(resume.click(as_gradio_error(page.resume), [begun, address, anyway], None, **LIGHT).then)
    shown(plan.change)
    to_unlearn.click(as_gradio_error(page.tunes.open), begun, opened, **LIGHT).success(
        None,
        opened,
        None,
        js="id => { window.location.href = '?pool=' + encodeURIComponent(id); }",
        api_visibility="private",
    )


def _step_scene() -> dict[str, Any]:
    scene: dict[str, Any] = {}
    with gr.Column(elem_classes="nm-card", elem_id="nm-scene"):
        gr.HTML(render("shared.heading", 1, "What should be forgotten?"), js_on_load=FOLDER_JS)
        scene["kind"] = gr.Radio([OWN, FAMILY], value=OWN, show_label=False, label="Source", elem_id="nm-kind")
        with gr.Column(visible=True) as scene["own"]:
            with gr.Row(elem_classes="nm-pair nm-files"):
                scene["archive"] = gr.File(file_types=[".zip"], label="A zip", height=120, elem_id="nm-zip")
                scene["folder"] = gr.File(file_count="directory", label="or a folder", height=120, elem_id="nm-folder")
            gr.HTML(
                '<p class="nm-fine">One sub-folder of images for each class, named as one would say it; with '
                "train, val and test folders, or without. They stay on this app’s machine.</p>"
            )
            scene["as_viewed"] = gr.Checkbox(
                True,
                label="As a viewer shows them",
                elem_id="nm-as-viewed",
                info="Upright by their EXIF, transparent parts on white; else as stored, which torchvision reads.",
            )
            scene["name"] = gr.Textbox("my-images", label="Name", max_length=60, elem_id="nm-name")
            scene["keep"] = gr.CheckboxGroup(
                list(FAMILIES),
                value=list(FAMILIES),
                label="Keep",
                elem_id="nm-families",
                info="What the embedded model should still know; leave out what is much alike.",
            )
        with gr.Column(visible=False) as scene["embedded"]:
            scene["family"] = gr.Dropdown(
                list(FAMILIES),
                value=next(iter(FAMILIES)),
                label="Family",
                interactive=True,
                info="The six others are kept.",
                elem_id="nm-family",
            )
        with gr.Accordion("With a model of your own", open=False, elem_id="nm-weights"):
            with gr.Row(elem_classes="nm-pair nm-files"):
                scene["base"] = gr.File(file_types=[".safetensors"], label="Its base", height=120, elem_id="nm-base")
                scene["tuned"] = gr.File(
                    file_count="multiple",
                    file_types=[".safetensors"],
                    label="Candidates",
                    height=120,
                    elem_id="nm-tuned",
                )
            scene["arch"] = gr.Textbox(
                TINY,
                label="Architecture",
                max_length=80,
                elem_id="nm-arch",
                info="As open_clip calls it. Candidates may also be fine-tuned here.",
            )
        with gr.Row(elem_classes="nm-buttons"):
            scene["use"] = gr.Button("Use this", variant="primary", elem_id="nm-use")
            scene["cancel"] = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-use-stop")
        scene["summary"] = gr.HTML("", elem_id="nm-scene-message")
        scene["paths"] = gr.JSON([], visible="hidden", label="paths")
    return scene


def _connect_scene(page: FinetunePage, scene: dict[str, Any], plan: gr.State) -> None:
    use, cancel = scene["use"], scene["cancel"]

    uploads = [scene[key] for key in ("archive", "folder", "base", "tuned")]
    sent = ("kind", "archive", "folder", "paths", "name", "keep", "family", "base", "tuned", "arch", "as_viewed")
    inputs = [*(scene[key] for key in sent), plan]
    outputs = [use, cancel, scene["summary"], plan, *uploads]
    use.click(page.use, inputs, outputs, js=WITH_PATHS, concurrency_limit=4, **LIGHT).then(
        lambda: (gr.Button(interactive=True), gr.Button(interactive=False)), None, [use, cancel], **LIGHT
    )
    cancel.click(page.cancel, None, None, concurrency_limit=8, **LIGHT)
    scene["kind"].change(
        lambda kind: (gr.Column(visible=kind != FAMILY), gr.Column(visible=kind == FAMILY)),
        scene["kind"],
        [scene["own"], scene["embedded"]],
        **LIGHT,
    )
