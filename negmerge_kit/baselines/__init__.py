"""Unlearning baselines for standard classifiers, one file each; menus and tables are made from this registry."""

from __future__ import annotations

from negmerge_kit.baselines.bad_teacher import BAD_TEACHER
from negmerge_kit.baselines.baseline import Baseline
from negmerge_kit.baselines.boundary_expand import BOUNDARY_EXPAND
from negmerge_kit.baselines.boundary_shrink import BOUNDARY_SHRINK
from negmerge_kit.baselines.cf_k import CF_K
from negmerge_kit.baselines.ct import CT
from negmerge_kit.baselines.eu_k import EU_K
from negmerge_kit.baselines.fine_tune import FINE_TUNE
from negmerge_kit.baselines.gradient_ascent import GRADIENT_ASCENT
from negmerge_kit.baselines.influence import INFLUENCE
from negmerge_kit.baselines.l1_sparse import L1_SPARSE
from negmerge_kit.baselines.msg import MSG
from negmerge_kit.baselines.neggrad_plus import NEGGRAD_PLUS
from negmerge_kit.baselines.random_labels import RANDOM_LABELS
from negmerge_kit.baselines.retrain import RETRAIN
from negmerge_kit.baselines.salun import SALUN
from negmerge_kit.baselines.scrub import SCRUB
from negmerge_kit.baselines.ssd import SSD
from negmerge_kit.errors import ParameterError

BASELINES: dict[str, Baseline] = {
    "retrain": RETRAIN,
    "fine-tune": FINE_TUNE,
    "gradient-ascent": GRADIENT_ASCENT,
    "random-labels": RANDOM_LABELS,
    "influence": INFLUENCE,
    "l1-sparse": L1_SPARSE,
    "boundary-shrink": BOUNDARY_SHRINK,
    "boundary-expand": BOUNDARY_EXPAND,
    "salun": SALUN,
    "scrub": SCRUB,
    "bad-teacher": BAD_TEACHER,
    "ssd": SSD,
    "neggrad-plus": NEGGRAD_PLUS,
    "eu-k": EU_K,
    "cf-k": CF_K,
    "msg": MSG,
    "ct": CT,
}


def find_baseline(name: str) -> Baseline:
    """The baseline of that name; ParameterError lists the names when there is none.

    >>> find_baseline("salun").reads
    ('forget', 'remaining')
    """
    if name not in BASELINES:
        raise ParameterError(f"there is no baseline {name!r}: choose one of {', '.join(BASELINES)}.")
    return BASELINES[name]


__all__ = ["BASELINES", "Baseline", "find_baseline"]
