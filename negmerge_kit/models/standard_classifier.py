"""Standard classifiers: a network with its own trained head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from negmerge_kit.checkpoints.normalise import as_a_model
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.devices import pick_device
from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.image_size import at_size
from negmerge_kit.models.model_spec import CLASSIFIER, ModelSpec, find_model
from negmerge_kit.models.networks import Network, build_network, head_of
from negmerge_kit.types import Json, Weights


class StandardClassifier(Classifier):
    """A network with its own trained head, which is the same for every set of a scene.

    The last layer's input and a constant 1 are the features, its weight and bias the head: so `features @ head.T` are
    the network's own logits, the bias included, and whatever classifies with features and heads works as for CLIP. The
    head is part of the weights: it trains, it merges, and `head()` is always the present one.
    """

    def __init__(self, network: Network, spec: ModelSpec, device: torch.device) -> None:
        placed = network.module.to(device)
        super().__init__(placed, placed, spec, mean=network.mean, std=network.std, image_size=network.image_size)

    @property
    def layer(self) -> nn.Linear:
        """The network's last layer."""
        tower: Any = self.tower
        layer: nn.Linear = tower.get_classifier()
        return layer

    def encode(self, pixels: Tensor) -> Tensor:
        """What the last layer sees of normalised pixels, and a constant 1: [n, D + 1]."""
        network: Any = self.tower
        seen: Tensor = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)

    def head(self, name: str) -> Tensor:
        """The network's own weight and bias, [C, D + 1], with gradients where they are on."""
        layer = self.layer
        bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
        return torch.cat([layer.weight, bias[:, None]], dim=1)

    def add_head(self, name: str, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Name the classes of a set, which must be as many as the head has.

        Raises:
            SceneError: another number of classes.
        """
        if len(classes) != (found := len(self.layer.weight)):
            raise SceneError(
                f"{name} has {len(classes)} classes, but the head of {self.spec} has {found}: give "
                "weights that were trained on these classes, or none and the kit trains them."
            )
        self.classes[name] = tuple(classes)
        return self.head(name)

    def add_prototypes(self, images: ImageSet) -> Tensor:
        """Name the classes only: the trained head stays."""
        return self.add_head(images.name, images.classes, ())


def load_classifier(
    spec: str | ModelSpec | Json, *, classes: int | None = None, device: str = "auto", seed: int = 0
) -> StandardClassifier:
    """A standard classifier with the weights that its spec names or, where it names none, as the seed initialises it.

    Args:
        spec: "classifier:NAME", "classifier:NAME/FILE", "classifier:timm/NAME" or "classifier:timm/NAME/TAG".
        classes: how many; needed for untrained weights, checked against the head that a file holds.
        seed: of untrained weights.

    Raises:
        CheckpointError: weights that do not fit.
        SceneError: the number of classes is missing, or is not the head's.

    >>> model = load_classifier("classifier:tiny", classes=10, device="cpu")
    >>> pixels = model.pixels(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    >>> torch.allclose(model.encode(pixels) @ model.head("any").T, model.tower(pixels), atol=1e-6)
    True
    """
    found = find_model(spec)
    name, place = found.arch.removeprefix(CLASSIFIER), pick_device(device)
    if found.pretrained is not None and not Path(found.pretrained).is_file():
        network = build_network(f"{name}.{found.pretrained}", None, seed=seed, size=found.size)
        held: int | None = network.head.out_features
    elif found.pretrained is not None:
        network, held = _from_file(found, name)
    elif classes is None:
        raise SceneError(f"{found} is untrained, so it needs a number of classes: open it through its scene.")
    else:
        network, held = build_network(name, classes, seed=seed, size=found.size), classes
    if classes is not None and held != classes:
        raise SceneError(
            f"the data have {classes} classes, but the head of {found} has {held}: give weights that were "
            "trained on these classes, or none and the kit trains them."
        )
    return StandardClassifier(network, found, place)


def _from_file(found: ModelSpec, name: str) -> tuple[Network, int]:
    """The network that a file's head makes, filled from the file."""
    small = build_network(name, 2, size=found.size)
    weights: Weights = as_a_model(open_checkpoint(str(found.pretrained)), small.module.state_dict())
    shape = head_of(weights, small)
    if shape is None:
        raise CheckpointError(f"{found} holds no head of this architecture: give the whole network's weights.")
    network = build_network(name, shape[0], size=found.size)
    if found.size is not None:
        weights = at_size(network.module, weights)
    wanted = network.module.state_dict()
    wrong = sorted({*wanted} ^ {*weights}) or sorted(key for key in wanted if wanted[key].shape != weights[key].shape)
    if wrong:
        raise CheckpointError(
            f"{found} does not fit: {len(wrong)} tensors are missing, too many or of another shape, "
            f"{wrong[0]!r} first; give a file of this architecture."
        )
    network.module.load_state_dict(dict(weights.items()))
    return network, shape[0]
