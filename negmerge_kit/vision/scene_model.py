"""A scene's model with a head for each of its sets: built, taken from a pool, or the network's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from negmerge_kit.errors import SceneError
from negmerge_kit.types import Weights
from negmerge_kit.vision.classifiers import StandardClassifier, load_classifier
from negmerge_kit.vision.clip import Classifier, load_model
from negmerge_kit.vision.linearized import linearize
from negmerge_kit.vision.model_spec import ModelSpec, find_model

if TYPE_CHECKING:
    from negmerge_kit.vision.scene import Scene


def load_scene_model(scene: Scene, *, device: str, heads: Weights | None) -> Classifier:
    """See `Scene.load`."""
    if scene.forgetting is not None:
        return _classifier(scene, find_model(scene.model), device)
    model = load_model(scene.model, device=device)
    if heads is not None:
        _adopt(scene, model, heads)
    else:
        for source in scene.sources:
            if model.classes.get(source.name) == source.classes:
                continue
            if model.has_text:
                model.add_head(source.name, source.classes, source.templates)
            else:
                model.add_prototypes(source.images("train", image_size=scene.transform, corrupt=scene.corrupt))
    _check_size(scene, model)
    return linearize(model) if scene.mode == "linear" else model


def untrained_scene_model(scene: Scene, *, device: str, seed: int) -> StandardClassifier:
    """See `Scene.untrained`."""
    spec = find_model(scene.model)
    if not spec.is_classifier:
        raise SceneError(f"how {spec} was trained is not known here: train it yourself and give the file.")
    return _classifier(scene, replace(spec, pretrained=None), device, seed)


def _classifier(scene: Scene, spec: ModelSpec, device: str, seed: int = 0) -> StandardClassifier:
    """The network, whose own head names the classes of every set; untrained unless its spec names weights."""
    model = load_classifier(spec, classes=len(scene.sources[0].classes), device=device, seed=seed)
    _check_size(scene, model)
    for source in scene.sources:
        model.add_head(source.name, source.classes, source.templates)
    return model


def _check_size(scene: Scene, model: Classifier) -> None:
    if model.image_size != scene.transform.size:
        raise SceneError(
            f"{model.spec} takes images of {model.image_size}, but its preprocessing makes "
            f"{scene.transform.size}: give another model."
        )


def _adopt(scene: Scene, model: Classifier, heads: Weights) -> None:
    width = int(model.features(torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)).shape[1])
    for source in scene.sources:
        head = heads.get(source.name)
        found = "missing" if head is None else list(head.shape)
        if found != [len(source.classes), width]:
            raise SceneError(
                f"the head {source.name!r} is {found}, but {len(source.classes)} classes and {width} features of "
                f"{model.spec} need [{len(source.classes)}, {width}]: it was built for another model or data set; "
                "build the pool anew."
            )
    model.heads = {name: head.to(model.device) for name, head in heads.items()}
    model.classes |= {source.name: source.classes for source in scene.sources}
