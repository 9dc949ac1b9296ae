"""WoodFisher: the inverse Fisher times a vector, from one gradient at a time (Singh & Alistarh, arXiv:2004.14340)."""

from __future__ import annotations

from torch import Tensor

from negmerge_kit.errors import ParameterError


class AsPublished:
    """The recursion of the reference code for influence unlearning, which is not F⁻¹v.

    o starts as the first gradient g₁; with every further g, t = o·g, k ← k − (k·g)/(N + t) o, o ← o − t/(N + t) o.
    It keeps one vector where WoodFisher needs one for each sample, so o stays parallel to g₁, and k leaves v along that
    line only. The published rows come from this.
    """

    def __init__(self, v: Tensor, n: int) -> None:
        self.product, self.n = v.clone(), n
        self.o: Tensor | None = None

    def see(self, g: Tensor) -> None:
        """One sample's gradient, [d]."""
        if self.o is None:
            self.o = g.clone()
            return
        t = self.o @ g
        self.product -= (self.product @ g) / (self.n + t) * self.o
        self.o -= t / (self.n + t) * self.o


class Exact:
    """F⁻¹v with F = I + (1/N) Σ g gᵀ: every sample's o = Fₙ₋₁⁻¹ g is kept, N · d numbers.

    Sherman and Morrison, as the paper's equation 4 has it: Fₙ⁻¹ = Fₙ₋₁⁻¹ − o oᵀ / (N + gᵀo).

    Raises:
        ParameterError: if the device has no room for them.

    >>> import torch
    >>> g = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> inverse = Exact(torch.tensor([1.0, 1.0]), 2)
    >>> for sample in g: inverse.see(sample)
    >>> (torch.eye(2) + g.T @ g / 2) @ inverse.product
    tensor([1.0000, 1.0000])
    """

    def __init__(self, v: Tensor, n: int) -> None:
        self.product, self.n, self.count = v.clone(), n, 0
        try:
            self.earlier, self.weights = v.new_empty(n, len(v)), v.new_empty(n)
        except RuntimeError:  # torch's, on every device, where memory does not suffice
            raise ParameterError(
                f"the exact inverse Fisher keeps {n} vectors of {len(v)} numbers, "
                f"{n * len(v) * v.element_size() / 1e9:.0f} GB, which {v.device} does not have: take "
                "fewer samples, or the published shortcut."
            ) from None

    def see(self, g: Tensor) -> None:
        """One sample's gradient, [d]; at most N of them."""
        earlier, weights = self.earlier[: self.count], self.weights[: self.count]
        o = g - ((earlier @ g) / weights) @ earlier
        weight = self.n + g @ o
        self.product -= (self.product @ g) / weight * o
        self.earlier[self.count], self.weights[self.count] = o, weight
        self.count += 1
