"""Under each dial stand its sentence and its rule's paper."""

import httpx
import pytest

from negmerge_kit.app.pages.rule_dials import DIALS, dial
from negmerge_kit.merging.rules import RULES

ALL = [(rule, parameter) for rule in RULES.values() for parameter in rule.parameters]


@pytest.mark.parametrize(("rule", "parameter"), ALL, ids=lambda entry: entry.name)
def test_each_dial_has_a_sentence_and_the_link_to_its_paper(rule, parameter):
    sentence, link = dial(rule, parameter).info.split(" [Paper]")
    assert sentence[0].isupper() and sentence.endswith(".") and len(sentence.split()) > 2
    assert link == f"({rule.paper})" and rule.paper.startswith("https://")


def test_the_page_shows_each_of_them(address):
    assert len(ALL) == len(DIALS)
    shown = [part["props"].get("info") for part in httpx.get(f"{address}config").json()["components"]]
    for rule, parameter in ALL:
        assert shown.count(dial(rule, parameter).info) >= 1
