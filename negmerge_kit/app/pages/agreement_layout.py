"""The Agreement page's components: on which weights the candidates chosen on Unlearn agree, and why."""

from __future__ import annotations

import gradio as gr

from negmerge_kit.app.buttons import LIGHT
from negmerge_kit.app.errors import as_gradio_error, as_gradio_errors
from negmerge_kit.app.pages.agreement import WHOLE, AgreementEvents
from negmerge_kit.app.pages.unlearn_layout import Controls
from negmerge_kit.app.requests import numbers


def lay_out(events: AgreementEvents, controls: Controls, tab: gr.Tab, number: gr.Number) -> None:
    """Build the page within its tab and connect it."""
    with gr.Column(elem_classes="nm-page"):
        notice = gr.HTML("", elem_id="nm-agreed")
        leaving = gr.Button("Cancel", size="sm", visible=False, elem_id="nm-agreed-stop")
        with gr.Row(elem_classes="nm-pair"):
            with gr.Column(elem_classes="nm-card"):
                gr.HTML("<h2>How the signs vote <small>filled: enough votes to be kept</small></h2>")
                of = gr.Dropdown([WHOLE], value=WHOLE, label="Votes of", interactive=True, elem_id="nm-votes-of")
                histogram = gr.HTML("", elem_id="nm-votes", elem_classes="nm-paper")
            with gr.Column(elem_classes="nm-card"):
                gr.HTML("<h2>By block and kind <small>share of what moved</small></h2>")
                heat = gr.HTML("", elem_id="nm-map")
        with gr.Column(elem_classes="nm-card"):
            gr.HTML("<h2>Tensor by tensor <small>a block opens to its tensors</small></h2>")
            table = gr.HTML("", elem_id="nm-tree")
        with gr.Column(elem_classes="nm-card"):
            gr.HTML(
                "<h2>Why signs agree, and what that is good for</h2>"
                '<p class="nm-fine">Zeros as candidates join, agreement and what cosines alone predict, and '
                "steps of equal length along consensus and along conflict. Half a minute on the embedded pool.</p>"
            )
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Explain this choice", variant="primary", elem_id="nm-explain")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-explain-stop")
            progress = gr.HTML("", elem_id="nm-explain-progress", elem_classes="nm-message")
            why = gr.HTML("", elem_id="nm-why")
    named = gr.State([])
    tab.select(
        as_gradio_errors(events.show),
        [number, of, *controls.choice],
        [notice, of, histogram, heat, table, why, named, leaving],
        trigger_mode="multiple",
        concurrency_limit=8,
        js=numbers(1 + len(controls.choice)),
        **LIGHT,
    )
    leaving.click(as_gradio_error(events.leave), controls.pool, None, concurrency_limit=8, **LIGHT)
    of.input(as_gradio_error(events.votes), [of, named], histogram, trigger_mode="always_last", **LIGHT)
    events.explaining.connect(start, stop, [number, *controls.choice], [progress, why])
