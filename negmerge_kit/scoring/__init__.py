"""Numbers about models: accuracy with its interval, and the scale that forgets most above a retention floor."""

from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.intervals import paired_difference, wilson
from negmerge_kit.scoring.scale_search import Point, ScaleSearch, parse_scales, search_scale, select_scale

__all__ = [
    "Accuracy",
    "Point",
    "ScaleSearch",
    "paired_difference",
    "parse_scales",
    "pool_accuracies",
    "search_scale",
    "select_scale",
    "wilson",
]
