"""Merging: candidates in, one delta out; tensors only, no file is opened and no model is known here."""

from __future__ import annotations

from negmerge_kit.merging.agreement import LayerAgreement, sign_agreement, total
from negmerge_kit.merging.fold import Merge, MergeCounts
from negmerge_kit.merging.layout import check_alike
from negmerge_kit.merging.negation import apply_delta, merge, subtract, unlearn
from negmerge_kit.merging.rule import Parameter, Rule
from negmerge_kit.merging.rules import RULES, find_rule
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.merging.similarity import PoolCheck, check_pool

__all__ = [
    "RULES",
    "LayerAgreement",
    "Merge",
    "MergeCounts",
    "Parameter",
    "PoolCheck",
    "Rule",
    "apply_delta",
    "chance",
    "check_alike",
    "check_pool",
    "find_rule",
    "merge",
    "sign_agreement",
    "subtract",
    "total",
    "unlearn",
    "votes_needed",
]
