"""CLIP models and timm towers: built with their weights or refused, with frozen heads of classes or class means."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from negmerge_kit.checkpoints.normalise import as_a_model
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import OPENAI_MEAN, OPENAI_STD, Classifier
from negmerge_kit.models.image_size import at_size, sized_as
from negmerge_kit.models.model_spec import TIMM, ModelSpec
from negmerge_kit.types import Weights

TIMM_TEMPERATURE = 100.0
"""Logits of a timm tower are this many cosines: CLIP's own factor, so that one learning rate suits both."""


@dataclass(frozen=True)
class Built:
    """A model on its device with what its images have to look like; no tokenizer means no text tower."""

    clip: Any
    tokenizer: Callable[[Sequence[str]], Tensor] | None
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class TimmTower(nn.Module):
    """A timm model without its classifier, met as an open_clip model without a text tower.

    Its state dict has timm's own names, so `timm.create_model(NAME, num_classes=0, checkpoint_path=FILE)` loads what
    the kit writes.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.visual = tower
        self.register_buffer("logit_scale", torch.tensor(TIMM_TEMPERATURE).log())

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Pooled features of normalised images, [n, D]."""
        features: Tensor = self.visual(images)
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The tower's own state dict."""
        return self.visual.state_dict(*args, **kwargs)


def build_model(found: ModelSpec, device: torch.device) -> Built:
    """The model that a spec names, in float32 on a device.

    Raises:
        CheckpointError: weights that cannot be had or do not fit: a random model is never used.
    """
    if found.arch.startswith(TIMM):
        return _timm(found, device)
    return _described(_embedded(found, device) if found.is_embedded else _open_clip(found, device), found.arch)


def build_untrained(arch: str, device: torch.device, size: int | None = None) -> Built:
    """An open_clip architecture as it is initialised from torch's generator, for images of its own or another size."""
    import open_clip

    from negmerge_kit.models.tiny_clip import register

    register()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it says that the weights are random, as is wanted here
    try:
        return _described(open_clip.create_model(arch, pretrained=None, device=device, force_image_size=size), arch)
    finally:
        logging.disable(before)


def _described(clip: nn.Module, arch: str) -> Built:
    """An open_clip model with its tokenizer and what its own configuration says of its images."""
    import open_clip

    preprocess: dict[str, Any] = open_clip.get_model_preprocess_cfg(clip)
    size = clip.visual.image_size  # type: ignore[union-attr]
    return Built(
        clip,
        _tokenizer(arch),
        (size, size) if isinstance(size, int) else tuple(size),  # type: ignore[arg-type]
        tuple(preprocess.get("mean") or OPENAI_MEAN),
        tuple(preprocess.get("std") or OPENAI_STD),
    )


def _embedded(found: ModelSpec, device: torch.device) -> nn.Module:
    from negmerge_kit.models.tiny_clip import fresh_clip, tiny_weights

    clip = fresh_clip() if found.size is None else build_untrained(found.arch, torch.device("cpu"), found.size).clip
    _fill_clip(clip, tiny_weights())
    placed: nn.Module = clip.to(device)
    return placed


def _fill_clip(clip: nn.Module, weights: Weights) -> None:
    """Load weights whole; positions that were learned at another size are interpolated as open_clip does."""
    from open_clip.model import resize_pos_embed

    state = dict(weights.items())
    resize_pos_embed(state, clip)
    clip.load_state_dict(state)


def _open_clip(found: ModelSpec, device: torch.device) -> nn.Module:
    import open_clip

    with warnings.catch_warnings(), refusing(str(found)):
        warnings.simplefilter("ignore", UserWarning)  # the activation was checked by find_model
        if (file := Path(str(found.pretrained))).suffix == ".safetensors" and file.is_file():
            stored = open_checkpoint(file)
            plain = as_a_model(stored)
            if {*plain} != {*stored}:  # open_clip takes off `module.` alone
                filled: nn.Module = build_untrained(found.arch, device, found.size).clip
                _fill_clip(filled, plain)
                return filled
        clip: nn.Module = open_clip.create_model(
            found.arch, pretrained=found.pretrained, device=device, require_pretrained=True, force_image_size=found.size
        )
        return clip


def _timm(found: ModelSpec, device: torch.device) -> Built:
    import timm
    from timm.data.config import resolve_model_data_config

    name, weights = found.arch.removeprefix(TIMM), str(found.pretrained)
    with refusing(str(found)):
        if Path(weights).is_file():
            tower = timm.create_model(name, num_classes=0, **sized_as(name, found.size))
            _fill(tower, as_a_model(open_checkpoint(weights), tower.state_dict()), found)
        else:
            tower = timm.create_model(f"{name}.{weights}", pretrained=True, num_classes=0, **sized_as(name, found.size))
    wanted = resolve_model_data_config(tower)
    _, height, width = wanted["input_size"] if found.size is None else (3, found.size, found.size)
    return Built(TimmTower(tower).to(device), None, (height, width), tuple(wanted["mean"]), tuple(wanted["std"]))


def _fill(tower: nn.Module, weights: Weights, found: ModelSpec) -> None:
    """Load a file whole: timm itself only logs what is missing. Its classifier is left out, as we build none."""
    classifier = getattr(tower, "pretrained_cfg", {}).get("classifier") or ()
    ends = tuple(f"{part}." for part in ([classifier] if isinstance(classifier, str) else classifier))
    found_here = {key for key in weights if not (ends and key.startswith(ends)) or key in tower.state_dict()}
    if differing := sorted(found_here ^ tower.state_dict().keys()):
        raise CheckpointError(
            f"{found} does not fit: {len(differing)} tensors are in one of file and architecture "
            f"only, {differing[0]!r} first; give a file of this architecture."
        )
    held = {key: weights[key] for key in found_here}
    tower.load_state_dict(dict((held if found.size is None else at_size(tower, held)).items()))


def _tokenizer(arch: str) -> Callable[[Sequence[str]], Tensor]:
    """The architecture's tokenizer, fetched when the first head is built: some live on the Hub."""

    def tokenize(texts: Sequence[str]) -> Tensor:
        try:
            tokens: Tensor = _open_tokenizer(arch)(texts)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            raise SceneError(
                f"the tokenizer of {arch} could not be had ({_first_line(error)}): check the network, or "
                "fetch it into the Hub's cache beforehand."
            ) from error
        return tokens

    return tokenize


@lru_cache(maxsize=4)
def _open_tokenizer(arch: str) -> Callable[[Sequence[str]], Tensor]:
    """Read once: unpacking its vocabulary takes longer than all prompts of a head."""
    import open_clip

    tokenizer: Callable[[Sequence[str]], Tensor] = open_clip.get_tokenizer(arch)
    return tokenizer


@contextmanager
def refusing(found: str) -> Iterator[None]:
    """Turn whatever goes wrong with weights into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    # open_clip asserts that a file's widths are the architecture's.
    except (
        AssertionError,
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        EOFError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        raise CheckpointError(
            f"{found} could not be loaded ({_first_line(error)}): check the tag and the network, or "
            "give a local file of this architecture."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")


def build_head(
    clip: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Class weights W such that `features @ W.T` are the CLIP logits: float32 [C, D] on the model's device.

    W_c = exp(logit_scale) * normalise(mean over templates of normalise(encode_text(template(c)))), built by open_clip's
    own zero-shot builder (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
    """
    from open_clip import build_zero_shot_classifier

    model: Any = clip
    device = model.logit_scale.device
    weights = build_zero_shot_classifier(model, tokenizer, list(classes), list(templates), device=device)
    scaled: Tensor = (weights.T * model.logit_scale.detach().exp()).float().contiguous()
    return scaled


def build_prototypes(features: Tensor, images: ImageSet, logit_scale: Tensor) -> Tensor:
    """Class weights from labelled images' unit features [n, D]: float32 [C, D] on the features' device.

    W_c = exp(logit_scale) * normalise(mean of the features of class c): the nearest class mean by cosine, as in
    prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175).

    Raises:
        SceneError: a class without an image; the message names it.
    """
    import torch

    labels = images.labels.to(features.device)
    count = torch.bincount(labels, minlength=len(images.classes))
    if not bool(count.all()):
        missing = images.classes[int((count == 0).nonzero()[0])]
        raise SceneError(
            f"{images.name} has no {images.split} image of class {missing!r}, which a head built from "
            "images needs: give at least one image a class."
        )
    total = features.new_zeros(len(count), features.shape[1]).index_add_(0, labels, features)
    prototypes: Tensor = torch.nn.functional.normalize(total / count[:, None], dim=1) * logit_scale.detach().exp()
    return prototypes.float()


class ClipClassifier(Classifier):
    """A model whose heads are built once from the base and then frozen: from prompts or, without text, from images.

    Args:
        built: the model on its device, with `encode_image`, `visual` and `logit_scale` as open_clip has them, its
            tokenizer (None where there is no text tower) and what its images look like.
        spec: which architecture and weights it is.
    """

    def __init__(self, built: Built, spec: ModelSpec) -> None:
        self.clip: Any = built.clip
        super().__init__(self.clip, self.clip.visual, spec, mean=built.mean, std=built.std, image_size=built.image_size)
        self.built, self.has_text = built, built.tokenizer is not None

    def encode(self, pixels: Tensor) -> Tensor:
        """Unit-length image features [n, D] of normalised pixels in one pass, with gradients where they are on."""
        features: Tensor = self.clip.encode_image(pixels, normalize=True)
        return features

    def add_head(self, name: str, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Build a head from class names and prompt templates with the text tower as it is now, and keep it frozen.

        Raises:
            SceneError: the model has no text tower, or its tokenizer cannot be had.
        """
        if self.built.tokenizer is None:
            raise SceneError(
                f"{self.spec} has no text tower, so class names give no head: build one from labelled "
                "training images with add_prototypes()."
            )
        self.heads[name] = build_head(self.clip, self.built.tokenizer, classes, templates)
        self.classes[name] = tuple(classes)
        return self.heads[name]

    def add_prototypes(self, images: ImageSet) -> Tensor:
        """Build the head `images.name` from labelled images with the image tower as it is now, and keep it frozen.

        A class's row is the mean of its images' features; image towers without a text tower classify by it.

        Raises:
            SceneError: a class without an image.
        """
        self.heads[images.name] = build_prototypes(self.features(images.images), images, self.clip.logit_scale)
        self.classes[images.name] = images.classes
        return self.heads[images.name]
