"""Live controls for notebooks: ipywidgets over the same Workbench and the same figures as the app.

Controls compute when they are let go, not while they are dragged. Every one works with the keyboard alone: Tab from one
to the next, Space ticks a box, presses a button or opens a menu, left and right arrows move a slider. With
`interactive=False` an explorer is its static figure, for a printed page.
"""

from negmerge_kit.notebook.agreement import agreement_explorer
from negmerge_kit.notebook.explorer import Explorer
from negmerge_kit.notebook.gallery import before_after_explorer
from negmerge_kit.notebook.negation import negation_explorer
from negmerge_kit.notebook.show import figure_text, show
from negmerge_kit.notebook.unlearning import unlearn_explorer

__all__ = [
    "Explorer",
    "agreement_explorer",
    "before_after_explorer",
    "figure_text",
    "negation_explorer",
    "show",
    "unlearn_explorer",
]
