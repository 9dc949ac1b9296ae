"""Passes side by side: the same bits as one after the other, on threads that share nothing, in forked processes too."""

import multiprocessing
import threading

import pytest
import torch

from negmerge_kit.data.embedded import family_images
from negmerge_kit.models import cpu_threads
from negmerge_kit.models.classifier import BATCH
from negmerge_kit.models.cpu_threads import MOST_LANES, lanes_of, short_operations, side_by_side
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model

IMAGES = family_images("digits", "val").images[: 3 * BATCH["cpu"] + 7]


@pytest.fixture
def threads():
    """Sets how many threads torch uses, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_features_are_the_same_bits_in_any_number_of_lanes(threads):
    model = load_model("tiny", device="cpu")
    threads(1)
    alone = model.features(IMAGES)
    for count in (2, 3):
        threads(count)
        assert model.lanes == count and model.at_once == count * BATCH["cpu"]
        assert torch.equal(model.features(IMAGES), alone)
    assert not model.features(IMAGES).requires_grad


def test_a_lane_shares_no_operation_and_threads_born_later_share_as_before(threads):
    threads(3)
    cpu_threads._threads.cache_clear()
    born = []
    assert set(side_by_side(lambda _: torch.get_num_threads(), range(9), 3)) == {1}
    thread = threading.Thread(target=lambda: born.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert born == [3] and torch.get_num_threads() == 3


def test_results_are_in_order_and_the_first_exception_is_told():
    assert list(side_by_side(lambda x: x * x, range(50), 2)) == [x * x for x in range(50)]

    def work(x):
        if x >= 3:
            raise ValueError(x)

    with pytest.raises(ValueError, match="^3$"):
        list(side_by_side(work, range(50), 2))
    assert list(side_by_side(abs, [-1], 2)) == [1]


def test_large_networks_and_tangent_models_have_one_lane(threads):
    threads(2)
    with torch.device("meta"):
        large = torch.nn.Linear(5000, 1000)
    assert lanes_of(large) == 1
    assert linearize(load_model("tiny", device="cpu")).lanes == 1
    threads(2 * MOST_LANES)
    assert lanes_of(torch.nn.Linear(2, 2)) == MOST_LANES
    with short_operations(large):
        assert torch.get_num_threads() == 2 * MOST_LANES
    with pytest.raises(KeyError), short_operations(torch.nn.Linear(2, 2)):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2 * MOST_LANES


def _in_child(queue):
    queue.put(list(side_by_side(abs, [-1, -2], 2)))


def test_a_forked_process_has_lanes_of_its_own():
    list(side_by_side(abs, [-1, -2], 2))
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == [1, 2]
    child.join(60)
    assert child.exitcode == 0
