"""The Audit page's components: probes of the model on Unlearn, and its card and files to take away."""

from __future__ import annotations

import gradio as gr

from negmerge_kit.app.buttons import LIGHT, lay_out_files
from negmerge_kit.app.downloads import EVERYTHING, PAGE
from negmerge_kit.app.errors import as_gradio_error
from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.pages.audit import AuditEvents
from negmerge_kit.app.pages.unlearn_layout import Controls
from negmerge_kit.app.requests import numbers
from negmerge_kit.audits.audit import PROBES

RETRAIN = (
    "Hold it against a model that never saw the images to forget. Where the pool has none it is trained first: about "
    "two minutes on one core for the embedded model, once."
)


def lay_out(events: AuditEvents, writing: Jobs, controls: Controls, tab: gr.Tab, number: gr.Number) -> None:
    """Build the page within its tab and connect it; files are written in `writing`, a line apart from heavy jobs."""
    with gr.Column(elem_classes="nm-page"):
        with gr.Column(elem_classes="nm-card"):
            gr.HTML("<h2>Is it gone? <small>what can still be read out, or comes back quickly</small></h2>")
            what = gr.Markdown("", elem_id="nm-under-audit", elem_classes="nm-explains")
            probes = gr.CheckboxGroup(list(PROBES), value=list(PROBES), label="Probes", elem_id="nm-probes")
            retrain = gr.Checkbox(False, label=RETRAIN, elem_id="nm-retrain")
            with gr.Row(elem_classes="nm-buttons"):
                start = gr.Button("Audit this model", variant="primary", elem_id="nm-audit")
                stop = gr.Button("Cancel", size="sm", interactive=False, elem_id="nm-audit-stop")
            gr.HTML(
                '<p class="nm-fine">Cancelling ends after the answer under way. The card says what was done and how it '
                "scored, with the audit in it once there is one; all is weights, card and audit.</p>"
            )
            files = lay_out_files({"page": f"card: {PAGE}", "everything": f"all: {EVERYTHING}"}, "audit-files")
        progress = gr.HTML("", elem_id="nm-audit-progress", elem_classes="nm-message")
        content = gr.HTML("", elem_id="nm-audit-content")
    named = gr.State([])
    tab.select(
        as_gradio_error(events.show),
        [number, *controls.model],
        [what, progress, content, named],
        trigger_mode="always_last",
        js=numbers(len(controls.model)),
        **LIGHT,
    )
    events.auditing.connect(start, stop, [number, named, probes, retrain, *controls.model], [progress, content])
    files.connect(events.write, [named], writing)
