"""A network of two weights: logits (a·x, b·x) of the mean x of an image's pixels in [-1/2, 1/2]; and its images."""

from types import SimpleNamespace

import numpy as np
import torch

from negmerge_kit.image_set import ImageSet


class Whole(torch.nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.visual = torch.nn.Linear(1, 2, bias=False)
        self.visual.weight.data = torch.tensor([[a], [b]])


class TwoWeights:
    mode = "standard"
    device = torch.device("cpu")

    def __init__(self, a=0.0, b=0.0):
        self.network = Whole(a, b).eval()
        self.tower = self.network.visual

    def pixels(self, images):
        return images.float() / 255 - 0.5

    def encode(self, pixels):
        x = pixels.mean(dim=(1, 2, 3))[:, None]
        return torch.cat([x, torch.ones_like(x)], dim=1)

    def head(self, name):
        weight = self.tower.weight
        return torch.cat([weight, torch.zeros_like(weight)], dim=1)

    @torch.no_grad()
    def load(self, items):
        self.network.load_state_dict(dict(items))

    def weights(self):
        return {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}

    @property
    def w(self):
        return self.tower.weight.detach().flatten().double().numpy()


def images_of(name, grey, labels):
    """Images of one grey each."""
    pixels = torch.tensor(grey, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return ImageSet(name, pixels, torch.tensor(labels), ("left", "right"), "train")


class Forbidden:
    """A set that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the {name} of a forbidden set was read")

    def __len__(self):
        raise AssertionError("the length of a forbidden set was read")


def parted(forgotten=None, remaining=None, **more):
    """Parts of which only the given sets may be read."""
    sets = {"seen": None, "validation": None, "test": None, "forgotten": forgotten, "remaining": remaining, **more}
    return SimpleNamespace(**{name: Forbidden() if images is None else images for name, images in sets.items()})


def of(images):
    """x [n] and one-hot labels [n, 2] of an image set, in float64."""
    x = images.images[:, 0, 0, 0].numpy().astype(np.float64) / 255 - 0.5
    return x, np.eye(2)[images.labels.numpy()]


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def slope(w, x, target):
    """∇ of the mean cross-entropy with target probabilities: the mean of (p − target) x."""
    return ((softmax(np.outer(x, w)) - target) * x[:, None]).mean(axis=0)
