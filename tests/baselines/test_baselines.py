"""Baselines against steps computed by hand on a network of two weights."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch

from negmerge_kit.baselines import BASELINES
from negmerge_kit.baselines.boundary_expand import shadow_row
from negmerge_kit.baselines.steps import Run
from negmerge_kit.baselines.woodfisher import AsPublished, Exact
from negmerge_kit.errors import ParameterError
from negmerge_kit.training.recipe import Recipe
from tests.baselines.two_weights import TwoWeights, images_of, of, parted, slope, softmax

RATE, DECAY = 0.5, 0.1
RECIPE = Recipe(lr=0.1, epochs=2)
BASE = (0.8, -0.3)
FORGET = images_of("forgotten", [51, 230], [0, 1])
REMAINING = images_of("remaining", [20, 200, 255], [1, 0, 1])


def unlearned(
    name,
    *,
    epochs=1,
    forgotten=FORGET,
    remaining=REMAINING,
    rate=RATE,
    seed=0,
    base=BASE,
    fresh=(0.0, 0.0),
    recipe=RECIPE,
    **params,
):
    """The two weights after the baseline; without momentum and with a decay that shows, where it has them."""
    baseline, model = BASELINES[name], TwoWeights(*base)
    known = {parameter.name for parameter in baseline.parameters}
    params = {key: value for key, value in {"momentum": 0, "weight_decay": DECAY}.items() if key in known} | params
    parts = parted(
        forgotten=forgotten if "forget" in baseline.reads else None,
        remaining=remaining if "remaining" in baseline.reads else None,
    )
    steps = list(
        baseline.unlearn(
            model,
            parts,
            rate=rate,
            epochs=epochs,
            seed=seed,
            fresh=lambda _: TwoWeights(*fresh),
            recipe=recipe,
            params=params,
        )
    )
    assert [step.index for step in steps] == list(range(1, steps[0].total + 1))
    assert not model.network.training and not model.tower.weight.requires_grad
    return model.w


def down(w, g, rate=RATE):
    return w - rate * (g + DECAY * w)


def test_fine_tune():
    assert unlearned("fine-tune") == pytest.approx(down(np.array(BASE), slope(BASE, *of(REMAINING))), abs=1e-6)


def test_an_empty_set_is_refused():
    with pytest.raises(ParameterError, match="remaining has no images: give some"):
        unlearned("fine-tune", remaining=REMAINING.take(0))


def test_momentum_is_sgds():
    w, speed = np.array(BASE), 0.0
    for _ in range(3):
        speed = 0.9 * speed + slope(w, *of(REMAINING)) + DECAY * w
        w = w - RATE * speed
    assert unlearned("fine-tune", epochs=3, momentum=0.9) == pytest.approx(w, abs=1e-6)


def test_retrain():
    """From an untrained network by the base's own recipe: momentum 0.9, and half the rate in the cosine's second step.

    Only the remaining images can be read; the rate and the epochs are the run's, not the recipe's.
    """
    w, speed = np.array((0.1, 0.6)), 0.0
    for rate in (RATE, RATE / 2):
        speed = 0.9 * speed + slope(w, *of(REMAINING)) + DECAY * w
        w = w - rate * speed
    recipe = Recipe(lr=0.1, epochs=7, weight_decay=DECAY, warmup=0, clip_norm=0.0, optimizer="sgd")
    assert unlearned("retrain", epochs=2, fresh=(0.1, 0.6), recipe=recipe) == pytest.approx(w, abs=1e-6)


def test_gradient_ascent():
    assert unlearned("gradient-ascent") == pytest.approx(down(np.array(BASE), -slope(BASE, *of(FORGET))), abs=1e-6)


def test_random_labels_may_be_the_truth_and_then_the_rest_is_taught():
    same, seen = images_of("forgotten", [230, 230], [1, 1]), set()
    for seed in range(12):
        found = unlearned("random-labels", forgotten=same, seed=seed)
        hits = []
        for ones in (0, 1, 2):
            target = np.array([[2 - ones, ones]]) / 2
            w = down(np.array(BASE), slope(BASE, of(same)[0][:1], target))
            hits += [ones] * int(np.abs(found - down(w, slope(w, *of(REMAINING)))).max() < 1e-6)
        assert len(hits) == 1
        seen.update(hits)
    assert seen == {0, 1, 2}


def test_salun_moves_one_of_two():
    """The gradients of two logits are opposite, so both weights matter alike and the first is taken."""
    same = images_of("forgotten", [230, 230], [1, 1])
    found = unlearned("salun", forgotten=same, share=0.5, momentum=0.9)
    assert found[1] == float(np.float32(BASE[1])) and found[0] != float(np.float32(BASE[0]))
    both = unlearned("salun", forgotten=same, share=1.0)
    assert both == pytest.approx(unlearned("random-labels", forgotten=same), abs=0)
    first = np.array([1.0, 0.0])
    options = []
    for ones in (0, 1, 2):
        w = np.array(BASE)
        w = w + first * (down(w, slope(w, of(same)[0][:1], np.array([[2 - ones, ones]]) / 2)) - w)
        options.append(w + first * (down(w, slope(w, *of(REMAINING))) - w))
    found = unlearned("salun", forgotten=same, share=0.5)
    assert min(np.abs(found - option).max() for option in options) < 1e-6


def test_l1_sparse():
    w = np.array(BASE)
    for alpha in (0.2, 0.1):
        w = down(w, slope(w, *of(REMAINING)) + alpha * np.sign(w))
    w = down(w, slope(w, *of(REMAINING)))
    assert unlearned("l1-sparse", epochs=3, alpha=0.2, epochs_without=1) == pytest.approx(w, abs=1e-6)


def test_boundary_shrink_relabels_by_an_attack_on_the_base():
    """A grey of 140 is 0.049 from the boundary and crosses it with a step of 0.1; 230 does not, and keeps its label."""
    forget = images_of("forgotten", [140, 230], [0, 0])
    x, _ = of(forget)
    w = np.array(BASE)
    for _ in range(2):
        w = down(w, slope(w, x, np.array([[0.0, 1.0], [1.0, 0.0]])))
    assert unlearned("boundary-shrink", forgotten=forget, epochs=2) == pytest.approx(w, abs=1e-6)


def test_boundary_expand_takes_its_row_away():
    run = Run(TwoWeights(*BASE), None, RATE, 1, 3, {}, None, RECIPE)
    row = shadow_row(run, 1).detach().double().numpy()[0]
    x, _ = of(FORGET)
    logits = np.column_stack([np.outer(x, BASE), row[0] * x + row[1]])
    g = (softmax(logits)[:, :2] * x[:, None]).mean(axis=0)
    assert unlearned("boundary-expand", seed=3) == pytest.approx(down(np.array(BASE), g), abs=1e-6)


def divergence_slope(w, x, teacher, temperature):
    """∇ of T² KL(softmax(teacher/T) ‖ softmax(x w/T)): T times the mean of (p − q) x."""
    p, q = softmax(np.outer(x, w) / temperature), softmax(teacher / temperature)
    return temperature * ((p - q) * x[:, None]).mean(axis=0)


def test_scrub_takes_turns():
    """Two epochs of max-step and min-step, then a min-step alone; the first max-step stands at its maximum's foot."""
    w = np.array(BASE)
    (x_f, _), (x_r, labels) = of(FORGET), of(REMAINING)
    for epoch in range(3):
        if epoch < 2:
            w = down(w, -divergence_slope(w, x_f, np.outer(x_f, BASE), 4.0))
        near = 0.5 * divergence_slope(w, x_r, np.outer(x_r, BASE), 4.0) + 0.9 * slope(w, x_r, labels)
        w = down(w, near)
    assert unlearned("scrub", epochs=3, alpha=0.5, gamma=0.9) == pytest.approx(w, abs=1e-6)


def test_bad_teacher_by_two_adam_steps():
    """The untrained teacher says one half; Adam's first step is the rate itself, its second is not."""
    (x_f, _), (x_r, _) = of(FORGET), of(REMAINING)
    x = np.concatenate([x_f, x_r])
    target = np.concatenate([np.full((2, 2), 0.5), softmax(np.outer(x_r, BASE))])
    w, m, v = np.array(BASE), 0.0, 0.0
    for t in (1, 2):
        g = slope(w, x, target)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert unlearned("bad-teacher", epochs=2, rate=0.05, share=1.0) == pytest.approx(w, abs=1e-5)


def test_neggrad_plus_climbs_and_descends_in_one_step():
    rest, w = of(REMAINING), np.array(BASE)
    for _ in range(2):
        w = down(w, 0.9 * slope(w, *rest) - 0.1 * slope(w, *of(FORGET)))
    assert unlearned("neggrad-plus", epochs=2, beta=0.9) == pytest.approx(w, abs=1e-6)
    for beta, name in {1.0: "fine-tune", 0.0: "gradient-ascent"}.items():
        assert unlearned("neggrad-plus", beta=beta) == pytest.approx(unlearned(name), abs=1e-7)


def test_neggrad_plus_begins_the_forget_set_again():
    """Four steps of two remaining images are two turns over four images to forget, each in an order of its own."""
    forget, rest = images_of("forgotten", [20, 90, 160, 240], [0, 1, 0, 1]), images_of("remaining", [200] * 8, [0] * 8)
    (x_f, l_f), (x_r, l_r) = of(forget), of(rest)
    ends = []
    for firsts in product(combinations(range(4), 2), repeat=2):
        w = np.array(BASE)
        for first in firsts:
            for pair in (list(first), [k for k in range(4) if k not in first]):
                w = down(w, 0.8 * slope(w, x_r[:2], l_r[:2]) - 0.2 * slope(w, x_f[pair], l_f[pair]))
        ends.append(w)
    for seed in range(3):
        found = unlearned("neggrad-plus", forgotten=forget, remaining=rest, beta=0.8, batch_size=2, seed=seed)
        assert min(np.abs(found - end).max() for end in ends) < 1e-6


@pytest.mark.parametrize(("alpha", "dampening"), [(0.3, 0.2), (0.9, 0.5), (0.3, 2.0), (1.0, 0.2)])
def test_ssd_with_the_gradient_of_each_image(alpha, dampening):
    """Both gradients of two logits are opposite, so both weights have one importance and one factor."""
    squares = [
        slope(BASE, x[k : k + 1], labels[k : k + 1]) ** 2
        for x, labels in (of(FORGET), of(REMAINING))
        for k in range(len(x))
    ]
    forget, full = np.mean(squares[:2], axis=0), np.mean(squares, axis=0)
    factor = np.where(forget > alpha * full, np.minimum(dampening * full / forget, 1), 1)
    assert (factor < 1).all() == (alpha < 0.97 and dampening < 0.97)
    found = unlearned("ssd", rate=alpha, dampening=dampening, batch_size=1)
    assert found == pytest.approx(np.array(BASE) * factor, abs=1e-6)


def test_ssd_squares_the_gradient_of_a_batch():
    forget, full = slope(BASE, *of(FORGET)) ** 2, slope(BASE, *of(REMAINING)) ** 2
    full = (forget + full) / 2
    factor = np.where(forget > 0.1 * full, np.minimum(full / forget, 1), 1)
    assert unlearned("ssd", rate=0.1) == pytest.approx(np.array(BASE) * factor, abs=1e-6)
    assert unlearned("ssd", rate=0.1, dampening=0.0) == pytest.approx([0, 0])


def influence_parts():
    (x_f, l_f), (x_r, l_r) = of(FORGET), of(REMAINING)
    each = np.array([slope(BASE, x_r[k : k + 1], l_r[k : k + 1]) for k in range(3)])
    return slope(BASE, x_f, l_f) * 2 / 5 - each.sum(axis=0) * 2 / (5 * 3), each


def test_influence_with_the_exact_inverse():
    v, each = influence_parts()
    fisher = np.eye(2) + each.T @ each / 3
    found = unlearned("influence", rate=7.0, fisher="exact")
    assert found == pytest.approx(np.array(BASE) + 7.0 * np.linalg.solve(fisher, v), abs=1e-5)


def test_influence_as_published():
    """The reference's one-vector recursion, in whichever order the samples were drawn."""
    v, each = influence_parts()
    options = []
    for order in permutations(range(3)):
        k, o = v.copy(), each[order[0]].copy()
        for g in each[list(order[1:])]:
            t = o @ g
            k, o = k - (k @ g) / (3 + t) * o, o - t / (3 + t) * o
        options.append(np.array(BASE) + 7.0 * k)
    found = unlearned("influence", rate=7.0)
    assert min(np.abs(found - option).max() for option in options) < 1e-5


def test_what_the_published_recursion_misses():
    """It leaves v along the first gradient only; the product that it stands for does not."""
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    v = torch.randn(4, generator=draw, dtype=torch.float64)
    published, exact = AsPublished(v, 6), Exact(v, 6)
    for g in gradients:
        published.see(g)
        exact.see(g)
    truth = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + gradients.T @ gradients / 6, v)
    assert exact.product.numpy() == pytest.approx(truth.numpy(), abs=1e-12)
    with pytest.raises(ParameterError, match="take fewer samples, or the published shortcut"):
        Exact(torch.zeros(10**6), 10**9)
    moved = published.product - v
    cosine = torch.nn.functional.cosine_similarity(moved, gradients[0], dim=0)
    assert abs(float(cosine)) == pytest.approx(1.0) and float((published.product - truth).norm()) > 0.1
