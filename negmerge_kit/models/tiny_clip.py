"""The embedded CLIP: a real open_clip model of 0.6 M trained weights that ships with the package.

Its architecture is an open_clip JSON config, `negmerge-tiny`; its tokenizer is CLIP's own, with all 49,408 tokens.
The token embedding (3.2 M numbers) is frozen at its random start and therefore not stored: `token_embedding` draws it
again, from random bytes, so that every machine gets the same bits. The rest ships as float16 and is used as float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from negmerge_kit.errors import CheckpointError

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor

    from negmerge_kit.types import Weights

TINY = "negmerge-tiny"
"""The architecture's name in open_clip, once `register()` was called."""

SHIPPED = Path(__file__).parent / "tiny_clip.safetensors"
TOKEN_EMBEDDING = "token_embedding.weight"

_CONFIG = Path(__file__).parent / f"{TINY}.json"
_VOCABULARY, _WIDTH = 49408, 64
_EMBEDDING_SEED = 2410_05583


def register() -> str:
    """Make `negmerge-tiny` known to open_clip and return that name; calling it again does nothing.

    >>> import open_clip
    >>> register() in open_clip.list_models()
    True
    """
    import open_clip

    if TINY not in open_clip.list_models():
        open_clip.add_model_config(_CONFIG)
    return TINY


def token_embedding() -> Tensor:
    """The frozen token embedding, float32 [49408, 64].

    Each number is a sum of four random bytes, centred and divided by 8192: close to normal with standard deviation
    0.018, and exact, because neither a logarithm nor a square root is involved.
    """
    import torch

    shape = (4, _VOCABULARY, _WIDTH)
    random = np.random.RandomState(_EMBEDDING_SEED)
    raw = np.frombuffer(random.bytes(int(np.prod(shape))), dtype=np.uint8).reshape(shape)
    total = raw[0].astype(np.int16) + raw[1] + raw[2] + raw[3]
    return torch.from_numpy((total - 510).astype(np.float32) / np.float32(8192))


def tiny_weights() -> dict[str, Tensor]:
    """The base's full open_clip state dict, float32, token embedding included.

    Raises:
        CheckpointError: the packaged weights are missing: reinstall, or rebuild them from seeds.

    >>> weights = tiny_weights()
    >>> tuple(weights["visual.proj"].shape), tuple(weights["token_embedding.weight"].shape)
    ((96, 64), (49408, 64))
    """
    from safetensors.torch import load_file

    if not SHIPPED.is_file():
        raise CheckpointError(
            f"the embedded base weights are missing at {SHIPPED}: reinstall the package, or rebuild "
            "them with `negmerge pool build tiny --from-scratch`."
        )
    weights = {name: tensor.float() for name, tensor in load_file(SHIPPED).items()}
    weights[TOKEN_EMBEDDING] = token_embedding()
    return weights


def fresh_clip(seed: int = 0) -> CLIP:
    """An untrained embedded CLIP: open_clip's initialisation from `seed`, the token embedding drawn and frozen."""
    import open_clip
    import torch

    register()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU for good
        clip = open_clip.CLIP(**open_clip.get_model_config(TINY))
    with torch.no_grad():
        clip.token_embedding.weight.copy_(token_embedding())
    clip.token_embedding.weight.requires_grad_(False)
    return clip


def ship(weights: Weights, path: Path = SHIPPED) -> Path:
    """Write weights as the package stores them: float16, without the token embedding."""
    from safetensors.torch import save_file

    stored = {
        name: tensor.detach().cpu().half().contiguous() for name, tensor in weights.items() if name != TOKEN_EMBEDDING
    }
    save_file(stored, path, metadata={"arch": TINY})
    return path
