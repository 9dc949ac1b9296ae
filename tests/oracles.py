"""Every rule once more, in plain NumPy and written from the papers: slow, whole models, no shared code.

Each takes the candidates' task vectors as `deltas`: a list (one entry a candidate) of dicts of float arrays, and gives
the merged dict.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

Deltas = list[dict[str, np.ndarray]]


def apply(deltas: Deltas, function) -> dict[str, np.ndarray]:
    return {name: function(np.stack([delta[name] for delta in deltas])) for name in deltas[0]}


def ordered_mean(stack: np.ndarray) -> np.ndarray:
    total = stack[0].copy()
    for row in stack[1:]:
        total = total + row
    return total / stack.dtype.type(len(stack))


def needed(n: int, agreement: float) -> int:
    return math.ceil(round(agreement * n, 9))


def elected(stack: np.ndarray, agreement: float) -> np.ndarray:
    need = needed(len(stack), agreement)
    return ((stack > 0).sum(0) >= need).astype(int) - ((stack < 0).sum(0) >= need).astype(int)


def negmerge(deltas: Deltas, agreement=1.0, average="mean", over="agreeing"):
    def one(stack):
        sign = elected(stack, agreement)
        flat, signs = stack.reshape(len(stack), -1), sign.reshape(-1)
        out = np.zeros(flat.shape[1], dtype=stack.dtype)
        for j, elect in enumerate(signs):
            if elect == 0:
                continue
            values = flat[:, j]
            if over == "agreeing":
                values = values[np.sign(values) == elect]
            if average == "mean":
                total = values.dtype.type(0)
                for value in values:
                    total = total + value
                result = total / values.dtype.type(len(values))
            elif average == "median":
                result = np.median(values)
            elif average == "min":
                result = values[np.argmin(np.abs(values))]
            else:
                result = values[np.argmax(np.abs(values))]
            out[j] = result if np.sign(result) == elect else 0
        return out.reshape(stack.shape[1:])

    return apply(deltas, one)


def uniform(deltas: Deltas):
    return apply(deltas, ordered_mean)


def median(deltas: Deltas):
    return apply(deltas, lambda stack: np.median(stack, 0).astype(stack.dtype))


def normalised(deltas: Deltas):
    lengths = np.array([np.sqrt(sum((v.astype(np.float64) ** 2).sum() for v in delta.values())) for delta in deltas])
    middle = np.median(lengths[lengths > 0]) if (lengths > 0).any() else 1.0
    factors = [middle / length if length else 1.0 for length in lengths]
    return apply(
        deltas,
        lambda stack: sum(f * row.astype(np.float64) for f, row in zip(factors, stack, strict=True)) / len(stack),
    )


def task_arithmetic(deltas: Deltas, candidate=1):
    return deltas[candidate - 1]


def ties(deltas: Deltas, density=0.2, trim_over="moved"):
    names = sorted(deltas[0])
    vectors = np.stack([np.concatenate([delta[name].reshape(-1) for name in names]) for delta in deltas])
    considered = vectors if trim_over == "all" else vectors[:, (vectors != 0).any(0)]
    d = considered.shape[1]
    rank = d - int(d * density)
    for row, chosen in zip(vectors, considered.copy(), strict=True):
        threshold = np.sort(np.abs(chosen))[rank - 1] if rank else 0
        row[np.abs(row) < threshold] = 0
    sign = np.sign(vectors.sum(0, dtype=np.float64))
    sign[sign == 0] = np.sign(sign.sum())
    kept = np.where(np.sign(vectors) == sign, vectors, 0)
    count = (kept != 0).sum(0)
    merged = (kept.sum(0, dtype=np.float64) / np.maximum(count, 1)).astype(vectors.dtype)
    out, start = {}, 0
    for name in names:
        shape = deltas[0][name].shape
        size = math.prod(shape)
        out[name] = merged[start : start + size].reshape(shape)
        start += size
    return out


def magmax(deltas: Deltas):
    def one(stack):
        last = len(stack) - 1 - np.argmax(np.abs(stack[::-1]), axis=0)
        return np.take_along_axis(stack, last[None], 0)[0]

    return apply(deltas, one)


def breadcrumbs(deltas: Deltas, density=0.85, gamma=0.01, trim_over="moved"):
    moved = apply(deltas, lambda stack: (stack != 0).any(0))

    def trimmed(values, considered):
        flat = values[considered].reshape(-1) if trim_over == "moved" else values.reshape(-1)
        n = flat.size
        if not n:
            return values
        keep = max(1, int(density * n))
        top = min(int(gamma * n), n - keep)
        order = np.sort(np.abs(flat))
        low, high = order[n - keep - top], order[n - top - 1]
        return np.where((np.abs(values) >= low) & (np.abs(values) <= high), values, 0).astype(values.dtype)

    return uniform([{name: trimmed(values, moved[name]) for name, values in delta.items()} for delta in deltas])


def consensus_mask(deltas: Deltas, lam=0.4, k=2):
    def one(stack):
        total = stack[0].copy()
        for row in stack[1:]:
            total = total + row
        votes = (np.abs(stack) > np.abs(total - stack) * stack.dtype.type(lam)).sum(0)
        return np.where(votes >= min(k, len(stack)), ordered_mean(stack), 0)

    return apply(deltas, one)


def emr(deltas: Deltas):
    def unify(stack):
        flag = np.where(stack.sum(0, dtype=np.float64) > 0, 1, -1)
        return flag * np.where(np.sign(stack) == flag, np.abs(stack), 0).max(0)

    unified = apply(deltas, unify)
    rescales = []
    for delta in deltas:
        own = sum(np.abs(delta[name], dtype=np.float64).mean() for name in delta)
        shared = sum(
            np.abs(np.where(delta[name] * unified[name] > 0, unified[name], 0), dtype=np.float64).mean()
            for name in delta
        )
        rescales.append(own / shared if shared else 1.0)
    return {name: (values * np.mean(rescales)).astype(deltas[0][name].dtype) for name, values in unified.items()}


def conflict(deltas: Deltas, agreement=1.0):
    return apply(deltas, lambda stack: np.where(elected(stack, agreement) == 0, ordered_mean(stack), 0))


def top_magnitude(deltas: Deltas, agreement=1.0):
    def one(stack):
        wanted = int((elected(stack, agreement) != 0).sum())
        mean = ordered_mean(stack)
        order = np.argsort(-np.abs(mean.reshape(-1)), kind="stable")[:wanted]
        out = np.zeros(mean.size, dtype=mean.dtype)
        out[order] = mean.reshape(-1)[order]
        return out.reshape(mean.shape)

    return apply(deltas, one)


def mix(word: np.ndarray) -> np.ndarray:
    """The published low-bias hash of 32 bits (shifts 16, 15, 16), in NumPy's own wrap-around arithmetic."""
    word = word.astype(np.uint32)
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B)
    return word ^ (word >> np.uint32(16))


def draws(seed: int, name: str, count: int) -> np.ndarray:
    """The counter-based generator: counter = place in the flattened tensor, key = BLAKE2b-64 of "seed:name"."""
    key = np.frombuffer(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), dtype="<u4")
    return mix(mix(np.arange(count, dtype=np.uint32) ^ key[0]) ^ key[1])


def value_draws(seed: int, name: str, values: np.ndarray) -> np.ndarray:
    """The same, drawn from each element's own bits too: sign-extended to 64 bits, high half onto low half."""
    flat = np.ascontiguousarray(values).reshape(-1)
    wide = flat.view(np.int64) if flat.dtype == np.float64 else flat.view(np.int32).astype(np.int64)
    halves = wide.view(np.uint32).reshape(-1, 2)
    return mix(draws(seed, name, flat.size) ^ halves[:, 0] ^ halves[:, 1])


def dare(deltas: Deltas, drop=0.5, seed=0):
    out = {}
    for name in deltas[0]:
        survivors = []
        for delta in deltas:
            kept = value_draws(seed, name, delta[name]) >= round(drop * 2**32)
            survivors.append(np.where(kept.reshape(delta[name].shape), delta[name], 0).astype(delta[name].dtype))
        mean = ordered_mean(np.stack(survivors))
        out[name] = mean / mean.dtype.type(1 - drop)
    return out


def random_mask(deltas: Deltas, agreement=1.0, seed=0):
    out = {}
    for name in deltas[0]:
        stack = np.stack([delta[name] for delta in deltas])
        wanted = int((elected(stack, agreement) != 0).sum())
        mean = ordered_mean(stack).reshape(-1)
        moved = np.flatnonzero(mean)
        chosen = moved[np.argsort(draws(seed, name, mean.size)[moved], kind="stable")[:wanted]]
        kept = np.zeros_like(mean)
        kept[chosen] = mean[chosen]
        out[name] = kept.reshape(stack.shape[1:])
    return out


def agreement_by_length(deltas: Deltas) -> dict[str, float]:
    """Unanimous elements' share of the plain average's squared length, by tensor and over "all"; 0 of nothing."""
    squares = {}
    for name in deltas[0]:
        signs, mean = np.sign([delta[name] for delta in deltas]), np.mean([delta[name] for delta in deltas], axis=0)
        kept = np.abs(signs.sum(0)) == len(deltas)
        squares[name] = np.array([np.linalg.norm(mean[kept]) ** 2, np.linalg.norm(mean) ** 2], dtype=np.float64)
    squares["all"] = sum(squares.values())
    return {name: float(part / whole) if whole else 0.0 for name, (part, whole) in squares.items()}
