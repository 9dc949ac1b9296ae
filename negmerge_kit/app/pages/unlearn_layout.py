"""The Unlearn page's components, and the head of all pages; `unlearn_events` connects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gradio as gr

from negmerge_kit.app.buttons import FileButtons, lay_out_files
from negmerge_kit.app.downloads import RECORD, WEIGHTS
from negmerge_kit.app.pages import candidates
from negmerge_kit.app.pages.rule_dials import dial, explanation, statistics_dial
from negmerge_kit.app.pages.unlearn import Chosen, Unlearn
from negmerge_kit.app.templates import render
from negmerge_kit.app.url_state import LOWEST_KEEP, RULE
from negmerge_kit.merging.layout import BUFFERS
from negmerge_kit.merging.rules import RULES
from negmerge_kit.plots.scale_curve import LARGEST_SCALE
from negmerge_kit.scoring.scale_search import KEEP


@dataclass(frozen=True)
class Controls:
    """What a visitor moves."""

    pool: gr.Dropdown
    picker: gr.CheckboxGroup
    every: gr.Button
    none: gr.Button
    best: gr.Button
    rule: gr.Dropdown
    dials: list[Any]
    buffers: gr.Radio
    dial_groups: dict[str, gr.Column]
    scale: gr.Slider
    keep: gr.Slider
    find: gr.Button
    stop: gr.Button
    examples: dict[str, gr.Button]
    takes: FileButtons

    @property
    def choice(self) -> list[Any]:
        """What merges: pool, candidates, rule, and every dial after them."""
        return [self.pool, self.picker, self.rule, *self.dials, self.buffers]

    @property
    def floored(self) -> list[Any]:
        """The choice with the floor before the dials."""
        return [self.pool, self.picker, self.rule, self.keep, *self.dials, self.buffers]

    @property
    def model(self) -> list[Any]:
        """The choice with floor and scale before the dials: the model that is chosen on Unlearn."""
        return [self.pool, self.picker, self.rule, self.keep, self.scale, *self.dials, self.buffers]


@dataclass(frozen=True)
class Shown:
    """What changes in answer."""

    message: gr.HTML
    leave: gr.Button  # next to the message while a pool is being opened
    number: gr.Number  # hidden: the page's script numbers its requests in it
    device: gr.HTML
    style: gr.HTML
    explains: gr.Markdown
    progress: gr.HTML
    chosen: Chosen  # the components of each piece, under its name
    known: gr.State  # (id, candidates) of the pool that the page shows
    timer: gr.Timer


Head: TypeAlias = tuple[gr.Dropdown, gr.HTML, gr.HTML, gr.Button]
"""Pool chooser, what it runs on, a place for a sentence, and a button to cancel what it speaks of."""


def lay_out_head(ids: Sequence[str], device: str) -> Head:
    """Build what is above all pages."""
    with gr.Row(elem_id="nm-head"):
        gr.HTML(render("shared.header"))
        pool = gr.Dropdown(
            list(ids),
            value=ids[0],
            label="pool",
            elem_id="nm-pool",
            interactive=True,
            filterable=False,
            scale=0,
            min_width=220,
        )
        chip = gr.HTML(device, elem_id="nm-device")
    message = gr.HTML("", elem_id="nm-message")
    return pool, chip, message, gr.Button("Cancel", size="sm", visible=False, elem_id="nm-message-stop")


def lay_out(page: Unlearn, head: Head, *, growing: bool) -> tuple[Controls, Shown]:
    """Build the page inside the Blocks that are being built; it starts with every finished candidate chosen."""
    ids = list(page.bench.pool.distinct)
    defaults = [parameter.default for rule in RULES.values() for parameter in rule.parameters]
    first = page.chosen("", ids, RULE, KEEP, 0.0, *defaults, BUFFERS[0])
    known, timer = gr.State((head[0].value, ids)), gr.Timer(1.0, active=growing)
    number = gr.Number(0, visible=False, elem_id="nm-number")
    style = gr.HTML(page.gallery.style(), elem_classes="nm-unseen")
    gr.HTML(render("shared.hint"), elem_id="nm-hint-box", js_on_load="negmerge.hint(element)")
    with gr.Row(elem_id="nm-body"):
        with gr.Column(elem_id="nm-steps"):
            choose, progress = _step_choose(page, ids)
            rule, explains, groups, dials, buffers, line = _step_merge(first.line, page.bench.policies)
            scale, keep, find, stop = _step_subtract()
            takes = _step_take()
        with gr.Column(elem_id="nm-results"):
            notice = gr.HTML(first.notice, elem_id="nm-notice")
            with gr.Row(elem_id="nm-examples", elem_classes="nm-buttons"):
                gr.HTML('<p class="nm-fine">Examples:</p>')
                examples = {name: gr.Button(name, size="sm") for name in candidates.EXAMPLES}
            cards = gr.HTML(first.cards, elem_id="nm-cards")
            result = gr.HTML(first.result, elem_id="nm-result")
            with gr.Column(elem_id="nm-curve", elem_classes="nm-card"):
                gr.HTML("<h2>Every scale, not only this one</h2>")
                with gr.Column(elem_id="nm-curve-box"):
                    curve = gr.HTML(first.curve)
                    marker = gr.HTML(first.marker, elem_id="nm-marker")
            with gr.Column(elem_id="nm-says", elem_classes="nm-card"):
                gr.HTML("<h2>What it says now <small>real images, before and after</small></h2>")
                gallery = gr.HTML(first.gallery)
            with gr.Column(elem_id="nm-agreement", elem_classes="nm-card"):
                what = "share of moved weights with enough equal signs, by layer"
                gr.HTML(f"<h2>Where the candidates agree <small>{what}</small></h2>")
                agreement = gr.HTML(first.agreement)
    pieces = Chosen(notice, cards, marker, gallery, line, curve, agreement, result)
    controls = Controls(head[0], *choose, rule, dials, buffers, groups, scale, keep, find, stop, examples, takes)
    return controls, Shown(*head[2:], number, head[1], style, explains, progress, pieces, known, timer)


def _step_choose(page: Unlearn, ids: list[str]) -> tuple[tuple[Any, Any, Any, Any], gr.HTML]:
    with gr.Column(elem_id="nm-step-1", elem_classes="nm-card"):
        gr.HTML(render("shared.heading", 1, "Choose candidates"))
        with gr.Row(elem_classes="nm-buttons"):
            every, none, best = (gr.Button(text, size="sm") for text in ("all", "none", "best 3"))
        gr.HTML(candidates.head_row())
        picker = gr.CheckboxGroup(
            candidates.choices(page.bench.pool),
            value=ids,
            interactive=True,
            container=False,
            elem_id="nm-picker",
            label="Candidates: learning rate, epochs, weight decay, and alone at its own best scale forget and kept",
        )
        gr.HTML(
            '<p class="nm-fine">The base fine-tuned on what it should forget, each with another recipe. '
            "Forget and kept: subtracted alone, at its own best scale (validation).</p>"
        )
        progress = gr.HTML("", elem_id="nm-progress")
    return (picker, every, none, best), progress


def _step_merge(line: str, policies: Sequence[str]) -> tuple[Any, ...]:
    dials: list[Any] = []
    groups = {}
    with gr.Column(elem_id="nm-step-2", elem_classes="nm-card"):
        gr.HTML(render("shared.heading", 2, "Merge them"))
        rule = gr.Dropdown(
            [(entry.title, name) for name, entry in RULES.items()],
            value=RULE,
            label="Rule",
            container=False,
            show_label=False,
            elem_id="nm-rule",
            interactive=True,
        )
        explains = gr.Markdown(explanation(RULE), elem_classes="nm-explains")
        for name, entry in RULES.items():
            with gr.Column(visible=name == RULE, elem_classes="nm-dials") as groups[name]:
                dials.extend(dial(entry, parameter) for parameter in entry.parameters)
        buffers = statistics_dial(policies, BUFFERS[0])
        kept = gr.HTML(line, elem_id="nm-kept")
    return rule, explains, groups, dials, buffers, kept


def _step_subtract() -> tuple[gr.Slider, gr.Slider, gr.Button, gr.Button]:
    with gr.Column(elem_id="nm-step-3", elem_classes="nm-card"):
        gr.HTML(render("shared.heading", 3, "Subtract it"))
        scale = gr.Slider(
            0,
            LARGEST_SCALE,
            value=0,
            step=0.01,
            label="scale λ",
            buttons=[],
            elem_id="nm-scale",
            info="How much of the merged change is subtracted; 0 is the base.",
        )
        keep = gr.Slider(
            LOWEST_KEEP,
            1.0,
            value=KEEP,
            step=0.01,
            label="keep at least",
            buttons=[],
            elem_id="nm-keep",
            info="Share of the base's retain accuracy that the search must not fall below.",
        )
        with gr.Row(elem_id="nm-search", elem_classes="nm-buttons"):
            find = gr.Button("Find the best scale", variant="primary", elem_id="nm-find")
            stop = gr.Button("Cancel", size="sm", visible=False, elem_id="nm-find-stop")
    return scale, keep, find, stop


def _step_take() -> FileButtons:
    with gr.Column(elem_id="nm-step-4", elem_classes="nm-card"):
        gr.HTML(render("shared.heading", 4, "Take it with you"))
        takes = lay_out_files({"weights": WEIGHTS, "record": RECORD}, "take")
        gr.HTML(
            '<p class="nm-fine">The weights at the scale above, named as the base’s, and a JSON record of how they '
            "were made. A CLIP model’s are ready for <code>open_clip.create_model(…, pretrained=FILE)</code>, a "
            "standard classifier’s for its <code>load_state_dict</code>.</p>"
        )
    return takes
