"""Networks with their own trained head: the embedded one, the field's CIFAR networks, and timm's classifiers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from negmerge_kit.errors import CheckpointError
from negmerge_kit.models.clip import refusing
from negmerge_kit.models.image_size import sized_as
from negmerge_kit.types import Weights

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
"""Statistics of CIFAR-10's training images, by which the published networks normalise."""

SCANS_MEAN = (0.3053,) * 3
SCANS_STD = (0.3760,) * 3
"""Statistics of the 1,200 scans that the embedded network is trained on."""


@dataclass(frozen=True)
class Network:
    """A classifier with its own head, and what its images have to look like."""

    module: nn.Module
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def head(self) -> nn.Linear:
        """The last layer: its weight is [C, D]."""
        module: Any = self.module
        layer: nn.Linear = module.get_classifier()
        return layer


class Pooled(nn.Module):
    """Convolutions, mean pooling and one linear layer, asked as a timm model is."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(width, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps [n, D, h, w] of normalised images."""
        found: Tensor = self.features(images)
        return found

    def forward_head(self, found: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [n, C] of feature maps, or their means [n, D]."""
        pooled = found.mean(dim=(2, 3))
        logits: Tensor = pooled if pre_logits else self.head(pooled)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, C] of normalised images."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head


class Residual(nn.Module):
    """A body whose input is added to its output; where that is smaller or has more channels, every k-th pixel of the
    input and channels of zeros, which takes no weights (option A of He et al., arXiv:1512.03385)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, images: Tensor) -> Tensor:
        """The body's output plus its input."""
        found: Tensor = self.body(images)
        step = images.shape[-1] // found.shape[-1]
        wider = found.shape[1] - images.shape[1]
        return found + nn.functional.pad(images[..., ::step, ::step], (0, 0, 0, 0, 0, wider))


def build_network(name: str, classes: int | None, *, seed: int = 0, size: int | None = None) -> Network:
    """An untrained network for so many classes, initialised from the seed whatever torch's generator holds.

    Args:
        name: one of `model_spec.NETWORKS`, or "timm/NAME"; "timm/NAME.TAG" comes with timm's weights.
        classes: how many; None for those of timm's weights.
        size: pixels a side of its images, where not its own.

    Raises:
        CheckpointError: a timm model whose head is not one linear layer.

    >>> network = build_network("tiny", 10)
    >>> sum(parameter.numel() for parameter in network.module.parameters()), network.image_size
    (57130, (8, 8))
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU for good
        network = _build(name, classes, size)
    if not isinstance(network.head, torch.nn.Linear):
        raise CheckpointError(
            f"the head of classifier:{name} is a {type(network.head).__name__}, and only one linear "
            "layer can be read as class weights: choose another architecture."
        )
    return network


def _build(name: str, classes: int | None, size: int | None) -> Network:
    network = _at_own_size(name, classes, size)
    return network if size is None else replace(network, image_size=(size, size))


def _at_own_size(name: str, classes: int | None, size: int | None) -> Network:
    import timm

    module: Any
    if name.startswith("timm/"):
        return _of_timm(name.removeprefix("timm/"), classes, size)
    assert classes is not None
    if name == "tiny":
        return Network(
            Pooled(nn.Sequential(*_stage(3, 32, 1), *_stage(32, 64, 2), *_stage(64, 64, 1)), 64, classes),
            (8, 8),
            SCANS_MEAN,
            SCANS_STD,
        )
    if name in ("resnet20", "resnet9"):
        module = _resnet20(classes) if name == "resnet20" else _resnet9(classes)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif name == "resnet18":
        module = timm.create_model("resnet18", num_classes=classes)
        module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
        module.maxpool = nn.Identity()
    elif name == "vgg16-bn":
        vgg: Any = timm.create_model("vgg16_bn", num_classes=0)
        module = Pooled(vgg.features, 512, classes)
    else:
        module = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=size or 32, patch_size=2, window_size=4, num_classes=classes
        )
    return Network(module, (32, 32), CIFAR_MEAN, CIFAR_STD)


def _of_timm(name: str, classes: int | None, size: int | None) -> Network:
    import timm
    from timm.data.config import resolve_model_data_config

    with refusing(f"classifier:timm/{name}"):
        module = timm.create_model(name, pretrained=classes is None, num_classes=classes, **sized_as(name, size))
    wanted = resolve_model_data_config(module)
    _, height, width = wanted["input_size"]
    return Network(module, (height, width), tuple(wanted["mean"]), tuple(wanted["std"]))


def _stage(inside: int, outside: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)


def _resnet20(classes: int) -> Pooled:
    layers, inside = [*_stage(3, 16, 1)], 16
    for outside in (16, 32, 64):
        for _ in range(3):
            body = (*_stage(inside, outside, outside // inside), *_stage(outside, outside, 1)[:-1])
            layers += [Residual(*body), nn.ReLU(inplace=True)]
            inside = outside
    return Pooled(nn.Sequential(*layers), 64, classes)


def _resnet9(classes: int) -> Pooled:
    """As D. Page trained it for speed (https://github.com/davidcpage/cifar10-fast), with mean pooling at the end."""

    def halved(inside: int, outside: int) -> tuple[nn.Module, ...]:
        return (*_stage(inside, outside, 1), nn.MaxPool2d(2))

    def added(width: int) -> Residual:
        return Residual(*_stage(width, width, 1), *_stage(width, width, 1))

    layers = (*_stage(3, 64, 1), *halved(64, 128), added(128), *halved(128, 256), *halved(256, 512), added(512))
    return Pooled(nn.Sequential(*layers), 512, classes)


def head_of(weights: Weights, network: Network) -> tuple[int, int] | None:
    """The shape [C, D] of the head that a file of this architecture holds; None where it holds none."""
    name = next(name for name, module in network.module.named_modules() if module is network.head)
    key = f"{name}.weight"
    return tuple(weights[key].shape) if key in weights else None  # type: ignore[return-value]


def has_batch_norm(module: nn.Module) -> bool:
    """Whether any layer normalises by the batch.

    >>> has_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    True
    """
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
