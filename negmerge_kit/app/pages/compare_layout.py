"""The Compare page's components: a floor, one button, and what every rule forgets above it."""

from __future__ import annotations

import gradio as gr

from negmerge_kit.app.buttons import LIGHT
from negmerge_kit.app.errors import as_gradio_error
from negmerge_kit.app.pages.compare import CompareEvents
from negmerge_kit.app.pages.unlearn_layout import Controls
from negmerge_kit.app.requests import numbers
from negmerge_kit.scoring.scale_search import KEEP

LOAD = """element.addEventListener('click', event => {
  const mark = event.target.closest('[data-row], [data-mark]');
  if (!mark) return;
  const of = mark.closest('[data-of]')?.dataset.of;
  const named = /^(?:forget|retain)-(matched|protocol)-(.+)$/.exec(mark.dataset.mark || '');
  if (named) trigger('click', {row: named[2], which: named[1], of});
  else if (mark.dataset.row) trigger('click', {row: mark.dataset.row, which: mark.dataset.which, of});
});"""
"""A click on a button of the table, or on a mark of the figure, names its row."""


def lay_out(events: CompareEvents, controls: Controls, tabs: gr.Tabs, tab: gr.Tab, number: gr.Number) -> None:
    """Build the page within its tab and connect it; a row that is clicked moves the controls of Unlearn."""
    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card nm-bar-of-controls"):
            gr.HTML("<h2>Which rule forgets most at equal retention?</h2>")
            keep = gr.Slider(
                0.8,
                1.0,
                value=KEEP,
                step=0.01,
                label="keep at least",
                buttons=[],
                elem_id="nm-floor",
                info="Share of the base's retain accuracy that every rule must keep, on validation.",
            )
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Compare all rules", variant="primary", elem_id="nm-compare")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-compare-stop")
        progress = gr.HTML("", elem_id="nm-compare-progress", elem_classes="nm-message")
        content = gr.HTML("", elem_id="nm-compare-content", js_on_load=LOAD)
    asked = [number, keep, controls.pool, controls.buffers]
    numbered = {"inputs": asked, "js": numbers(len(asked) - 1), **LIGHT}
    gr.on(
        [tab.select, keep.change],
        events.show,
        outputs=[progress, content],
        trigger_mode="multiple",
        concurrency_limit=8,
        **numbered,
    )
    events.comparing.connect(start, stop, asked, [progress, content])
    moved = [tabs, controls.picker, controls.rule, controls.scale, controls.keep, *controls.dials]
    content.click(as_gradio_error(events.load), outputs=moved, **numbered)
