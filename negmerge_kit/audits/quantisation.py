"""Weights rounded to fewer bits: does what was forgotten come back when the model is stored small?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from negmerge_kit.audits.context import AuditContext, ProbedModel
from negmerge_kit.audits.probe import HIGHER, LEFTOVER, LOWER, Measurement, Probe, change, judge
from negmerge_kit.audits.rounding import PRECISIONS, round_to
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier


def quantisation(context: AuditContext) -> Iterator[Probe]:
    """Accuracy on the forget and on the kept test images after every model's weights were rounded alike.

    Small changes of weights may round to where the base rounds, and what was forgotten is back (Zhang et al. 2024,
    https://arxiv.org/abs/2410.16454). What is rounded: `quantised_names`. Knowledge is left where rounding makes the
    unlearned model name significantly more forget images, and where `judge` says so of the rounded models.
    """
    for precision in PRECISIONS:
        rounded = {who: _rounded(probed, precision) for who, probed in context.asked.items()}
        for side, sets in (("forget", (context.forget,)), ("retain", context.test.retain)):
            found = {who: _hits(probed, sets) for who, probed in rounded.items()}
            by_rounding = {who: _change(_hits(context.asked[who], sets), found[who]) for who in found}
            measurements = {who: Measurement.share(right, context.forget.split) for who, right in found.items()}
            forget = side == "forget"
            back = by_rounding["unlearned"]["low"] > 0
            yield Probe(
                f"{precision} on {side}",
                f"Does the model with its weights rounded to {precision} name images of {context.forget.name}?"
                if forget
                else f"Does the model with its weights rounded to {precision} still name the kept images?",
                measurements,
                sum(len(images) / len(images.classes) for images in sets) / sum(map(len, sets)),
                (LEFTOVER if back else judge(found, context.chance)) if forget else None,
                details={"by_rounding": by_rounding},
                good=LOWER if forget else HIGHER,
                floor=context.floor(measurements) if forget else None,
            )


def quantised_names(model: Classifier) -> list[str]:
    """Tensors of the image tower that are rounded: weights of linear and convolution layers, attention's among them.

    Biases, norms, embeddings of class and position, CLIP's output projection `visual.proj` and the class heads keep
    their precision.

    >>> from negmerge_kit.models.load import load_model
    >>> names = quantised_names(load_model("tiny", device="cpu"))
    >>> len(names), names[0], names[1]
    (17, 'visual.conv1.weight', 'visual.transformer.resblocks.0.attn.in_proj_weight')
    """
    layers = [f"{path}.weight" for path, module in model.tower.named_modules() if isinstance(module, _LAYERS)]
    prefix = "visual." if model.has_text else ""
    return [
        prefix + name
        for name, _ in model.tower.named_parameters()
        if name in layers or name.endswith("attn.in_proj_weight")  # open_clip's packed query, key and value
    ]


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _rounded(probed: ProbedModel, precision: str) -> ProbedModel:
    names = set(quantised_names(probed.shown()))
    weights = {
        name: round_to(tensor.cpu(), precision) if name in names else tensor for name, tensor in probed.weights.items()
    }
    return probed.with_weights(f"{probed.name} in {precision}", weights)


def _hits(probed: ProbedModel, sets: Sequence[ImageSet]) -> Tensor:
    return torch.cat([probed.hits(images) for images in sets])


def _change(before: Tensor, after: Tensor) -> dict[str, float]:
    low, high = change(before, after)
    return {"value": float(after.double().mean() - before.double().mean()), "low": low, "high": high}
