"""Base of every explorer: controls next to one figure that is redrawn when a control is released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, NamedTuple

import ipywidgets as widgets
from matplotlib.figure import Figure

from negmerge_kit.errors import NegmergeError
from negmerge_kit.notebook.show import img

LABELS = {"description_width": "9em"}


class Drawn(NamedTuple):
    """Output of an explorer: a figure, a line of text (HTML), and where there is one a wide figure beneath."""

    figure: Figure
    line: str = ""
    beneath: Figure | None = None


class Explorer:
    """Controls by name, the figure they draw, and the line beneath it; displays itself as a notebook's last expression.

    A mistake that the reader can mend, such as no candidate selected, is shown in the line and leaves the figure alone.

    Args:
        controls: by name, in the order of the Tab key; each has `value` and `observe`.
        draw: what to show for the controls' present values.
        buttons: by name, shown beneath the controls.
    """

    def __init__(
        self, controls: Mapping[str, Any], draw: Callable[[], Drawn], *, buttons: Mapping[str, Any] | None = None
    ) -> None:
        self.controls = dict(controls)
        self.buttons = dict(buttons or {})
        self.drawn = Drawn(Figure())
        self._draw = draw
        self._held = False
        self._picture, self._line, self._beneath = widgets.HTML(), widgets.HTML(), widgets.HTML()
        shown = [getattr(control, "box", control) for control in self.controls.values()]
        left = widgets.VBox([*shown, *self.buttons.values()])
        # Its own width, not that of its longest line, decides whether it fits next to the controls.
        right = widgets.VBox([self._picture, self._line], layout=widgets.Layout(flex="1 1 28em", min_width="20em"))
        upper = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap", grid_gap="0 1.5em"))
        self.box = widgets.VBox([upper, self._beneath])
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        self.redraw()

    @property
    def figure(self) -> Figure:
        """The present figure."""
        return self.drawn.figure

    @property
    def text(self) -> str:
        """The line beneath the figure, as HTML."""
        return str(self._line.value)

    def set(self, **values: Any) -> None:
        """Set several controls and draw once."""
        self._held = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._held = False
        self.redraw()

    def redraw(self) -> None:
        """Draw the figure for the controls' present values."""
        try:
            self.drawn = self._draw()
        except NegmergeError as error:
            self._line.value = f'<p role="alert"><b>{escape(str(error))}</b></p>'
            return
        self._picture.value = img(self.drawn.figure)
        self._beneath.value = img(self.drawn.beneath) if self.drawn.beneath else ""
        self._line.value = f'<p role="status" style="line-height:1.5">{self.drawn.line}</p>'

    def _changed(self, _: object) -> None:
        if not self._held:
            self.redraw()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.box._repr_mimebundle_(**kwargs)


def slider(title: str, value: float, *, high: float, low: float = 0.0, step: float = 0.05) -> Any:
    """A slider that reports its value when it is let go; the arrow keys move it a step."""
    return widgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=step,
        description=title,
        continuous_update=False,
        style=LABELS,
        layout=widgets.Layout(width="27em"),
    )
