"""Model specs: "tiny", ARCH/TAG, timm:…, classifier:… or a file, resolved to architecture and weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from negmerge_kit.checkpoints.normalise import as_a_model
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.errors import CheckpointError
from negmerge_kit.models.tiny_clip import SHIPPED, TINY, TOKEN_EMBEDDING, register
from negmerge_kit.types import Json

TIMM = "timm:"
"""Prefix of a timm architecture: an image tower without a text tower."""

CLASSIFIER = "classifier:"
"""Prefix of a network with its own trained head."""

NETWORKS = {
    "tiny": "three convolutions with batch normalisation, 57 thousand parameters, for scans of 8 x 8",
    "resnet20": "ResNet-20 as He et al. made it for CIFAR: 0.27 million parameters, for a laptop",
    "resnet9": "ResNet-9 as the field trains it in minutes: 6.6 million parameters, eight convolutions",
    "resnet18": "ResNet-18 with CIFAR's stem: a first convolution of 3 x 3 without stride, no pooling behind it",
    "vgg16-bn": "VGG-16 with batch normalisation, mean pooling and one linear layer, as the field trains it on CIFAR",
    "swin-t": "Swin-T for 32 x 32, with patches of 2 x 2 and windows of 4 x 4",
}
"""What `classifier:NAME` may name, and what each is; `classifier:timm/NAME` is any classifier of timm."""

_SPECS = (
    'give "tiny", ARCH/TAG as open_clip names them, timm:NAME/TAG, classifier:NAME, a weight file, or '
    '{"arch": ..., "pretrained": ..., "size": ...}'
)


@dataclass(frozen=True)
class ModelSpec:
    """An open_clip, "timm:" or "classifier:" architecture and where its weights come from.

    Attributes:
        pretrained: a tag or a file; None means the weights that ship with the package or, for a classifier, that it
            starts untrained.
        size: pixels a side of its images, where not the architecture's own.
    """

    arch: str
    pretrained: str | None
    size: int | None = None

    def __str__(self) -> str:
        name = self.arch if self.pretrained is None else f"{self.arch}/{self.pretrained}"
        if self.is_embedded:
            name = "tiny"
        return name if self.size is None else f"{name} at {self.size} pixels"

    @property
    def is_embedded(self) -> bool:
        """True for the base that ships with the package."""
        return self.arch == TINY and self.pretrained is None

    @property
    def is_classifier(self) -> bool:
        """True for a network with its own trained head."""
        return self.arch.startswith(CLASSIFIER)

    def heads(self) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
        """Heads that come with the model: the embedded architecture knows its families."""
        if self.arch == TINY:
            for name, family in FAMILIES.items():
                yield name, (family.classes, family.templates)

    def as_json(self) -> str | Json:
        """Plain values that `find_model` reads back; the size only where it is not the architecture's own."""
        if self.is_embedded and self.size is None:
            return "tiny"
        return {"arch": self.arch, "pretrained": self.pretrained} | ({} if self.size is None else {"size": self.size})


def find_model(spec: str | Path | ModelSpec | Json) -> ModelSpec:
    """Resolve a model spec, offline.

    A tag whose weights were trained with QuickGELU selects the architecture's "-quickgelu" variant: open_clip itself
    only warns, and the model is then a few points worse without a sign.

    Raises:
        CheckpointError: an unknown spec, architecture or tag, a file of unknown architecture, or an activation for
            which open_clip has no variant.

    >>> find_model("tiny")
    ModelSpec(arch='negmerge-tiny', pretrained=None, size=None)
    >>> find_model("ViT-B-32/openai")
    ModelSpec(arch='ViT-B-32-quickgelu', pretrained='openai', size=None)
    """
    if isinstance(spec, ModelSpec):
        return spec
    if isinstance(spec, dict):
        arch, pretrained, size = spec.get("arch"), spec.get("pretrained"), spec.get("size")
        if arch is None or set(spec) - {"arch", "pretrained", "size"} or type(size) not in (int, type(None)):
            raise CheckpointError(f"model spec {spec!r} is not understood: {_SPECS}.")
        embedded = pretrained is None and arch in (TINY, "tiny")
        return sized(ModelSpec(TINY, None) if embedded else _checked(arch, pretrained), size)
    text = str(spec)
    if text == "tiny":
        return ModelSpec(TINY, None)
    if Path(text).is_file():
        return _checked(_architecture_of(Path(text)), text)
    if text.startswith(TIMM):
        return _checked_timm(*text.partition("/")[::2])
    if text.startswith(CLASSIFIER):
        return _checked_classifier(*_halves(text))
    arch, slash, pretrained = text.partition("/")
    if not slash or arch not in _architectures():
        raise CheckpointError(f"model {text!r} is neither a file nor an open_clip architecture: {_SPECS}.")
    return _checked(arch, pretrained)


def sized(spec: str | Path | ModelSpec | Json, size: int | None) -> ModelSpec:
    """The spec with images of another size; None leaves its own.

    Raises:
        CheckpointError: for a size below 1.

    >>> str(sized("classifier:resnet20", 64)), sized("classifier:resnet20", 64).as_json()["size"]
    ('classifier:resnet20 at 64 pixels', 64)
    """
    found = find_model(spec)
    if size is None:
        return found
    if size < 1:
        raise CheckpointError(f"size is {size}: give the pixels a side, such as 64.")
    return replace(found, size=size)


def _architectures() -> list[str]:
    import open_clip

    register()
    names: list[str] = open_clip.list_models()
    return names


def _checked(arch: str, pretrained: str | None) -> ModelSpec:
    from open_clip import get_model_config, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    if arch.startswith(TIMM):
        return _checked_timm(arch, pretrained)
    if arch.startswith(CLASSIFIER):
        return _checked_classifier(arch, pretrained)
    names = _architectures()
    if arch not in names:
        raise CheckpointError(
            f"architecture {arch!r} is not known to open_clip: choose one of open_clip.list_models()."
        )
    if not pretrained:
        raise CheckpointError(f"no weights were named for {arch}: a random model is never used; give a tag or a file.")
    if Path(pretrained).is_file():
        return ModelSpec(arch, pretrained)
    tag = get_pretrained_cfg(arch, pretrained)
    if not tag:
        tags = ", ".join(list_pretrained_tags_by_model(arch)) or "none"
        raise CheckpointError(f"{pretrained!r} is neither a file nor a tag of {arch}: choose one of {tags}.")
    quick = bool(tag.get("quick_gelu", False))
    if quick != bool((get_model_config(arch) or {}).get("quick_gelu", False)):
        other = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
        if other == arch or other not in names:
            raise CheckpointError(
                f"the weights {arch}/{pretrained} were trained with {'Quick' if quick else ''}GELU "
                "and open_clip has no such variant of the architecture: choose another tag."
            )
        arch = other
    return ModelSpec(arch, pretrained)


def _checked_timm(arch: str, pretrained: str | None) -> ModelSpec:
    """A timm spec; NAME.TAG, as timm writes it, is understood too."""
    from timm import is_model, list_pretrained

    name, _, tag = arch.removeprefix(TIMM).partition(".")
    weights = pretrained or tag
    if not is_model(name):
        raise CheckpointError(f"architecture {name!r} is not known to timm: choose one of timm.list_models().")
    if Path(weights).is_file() or f"{name}.{weights}" in (known := list_pretrained(f"{name}.*")):
        return ModelSpec(f"{TIMM}{name}", weights)
    tags = ", ".join(full.partition(".")[2] for full in known) or "none"
    named = (
        f"{weights!r} is neither a file nor a tag of {arch}"
        if weights
        else (f"no weights were named for {arch}: a random model is never used")
    )
    raise CheckpointError(f"{named}; give a file or one of {tags}.")


def _halves(text: str) -> tuple[str, str | None]:
    """A classifier's architecture, whose name may hold "timm/", and its weights behind the next stroke."""
    parts = text.split("/", 2 if text.startswith(f"{CLASSIFIER}timm/") else 1)
    whole = 2 if text.startswith(f"{CLASSIFIER}timm/") else 1
    return "/".join(parts[:whole]), parts[whole] if len(parts) > whole else None


def _checked_classifier(arch: str, pretrained: str | None) -> ModelSpec:
    """A classifier's spec: untrained, from a file, or with one of timm's tags."""
    name = arch.removeprefix(CLASSIFIER)
    if not name.startswith("timm/"):
        if name not in NETWORKS:
            raise CheckpointError(
                f"classifier {name!r} is not known: choose one of {', '.join(NETWORKS)}, or timm/NAME."
            )
        if pretrained is not None and not Path(pretrained).is_file():
            raise CheckpointError(
                f"{pretrained} is not a file: give weights of {arch}, or leave them out and the kit trains it."
            )
        return ModelSpec(arch, pretrained)
    if pretrained is None and "." not in name:
        from timm import is_model

        if not is_model(name.removeprefix("timm/")):
            raise CheckpointError(f"architecture {name!r} is not known to timm: choose one of timm.list_models().")
        return ModelSpec(arch, None)
    known = _checked_timm(name.removeprefix("timm/"), pretrained)
    return ModelSpec(f"{CLASSIFIER}timm/{known.arch.removeprefix(TIMM)}", known.pretrained)


def _architecture_of(path: Path) -> str:
    """The architecture that a safetensors file names, or the embedded one if every tensor fits it."""
    remedy = f'give {{"arch": ARCHITECTURE, "pretrained": "{path}"}}'
    try:
        stored = open_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): {remedy}, or another file."
        ) from error
    if named := stored.raw_metadata.get("arch"):
        return named
    shapes, embedded = (
        {name: shape for name, (shape, _) in weights.layout().items() if name != TOKEN_EMBEDDING}
        for weights in (as_a_model(stored), open_checkpoint(SHIPPED))
    )
    if shapes != embedded:
        raise CheckpointError(f"{path} does not say which architecture it belongs to: {remedy}.")
    return TINY


def base_on_hub(model: Any) -> str | None:
    """The Hub repository of a scene's base model; None for the embedded one, a classifier and a local file.

    >>> base_on_hub({"arch": "ViT-B-32-quickgelu", "pretrained": "openai"})
    'timm/vit_base_patch32_clip_224.openai'
    >>> base_on_hub({"arch": "timm:resnet18", "pretrained": "a1_in1k"}), base_on_hub("tiny")
    ('timm/resnet18.a1_in1k', None)
    """
    arch, tag = (model.get("arch"), model.get("pretrained")) if isinstance(model, dict) else (model, None)
    arch = str(arch)
    if arch.startswith("hf-hub:"):
        return arch.removeprefix("hf-hub:")
    if not isinstance(tag, str) or "." in tag or arch.startswith("classifier:"):
        return None
    if arch.startswith("timm:"):
        return f"timm/{arch.removeprefix('timm:')}.{tag}"
    from open_clip import get_pretrained_cfg

    return str((get_pretrained_cfg(arch, tag) or {}).get("hf_hub") or "").strip("/") or None


def licence_of_base(model: Any) -> str | None:
    """The licence under which the base's weights were given out, where it is known here; else `push --licence` says it.

    >>> licence_of_base("tiny"), licence_of_base({"arch": "ViT-B-32", "pretrained": "metaclip_400m"})
    ('mit', None)
    """
    tag = str(model.get("pretrained")) if isinstance(model, dict) else ""
    embedded = model == "tiny"  # this package's own weights
    return "mit" if embedded or tag == "openai" or tag.startswith(("laion400m", "laion2b")) else None
