"""The page over the quick pool: as functions, and served on a free port."""

import socket

import pytest

from negmerge_kit.merging.rules import RULES

DIALS = [parameter.default for rule in RULES.values() for parameter in rule.parameters]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def page(bench):
    """The main page's functions."""
    from negmerge_kit.web.scored import Scored
    from negmerge_kit.web.unlearn import Unlearn

    return Unlearn(Scored(bench))


@pytest.fixture(scope="session")
def address(tiny_pool):
    """A served page over the quick pool, on the CPU."""
    from negmerge_kit.web import serve

    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close(verbose=False)
