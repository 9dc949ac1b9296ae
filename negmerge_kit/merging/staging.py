"""From host memory to a GPU: the next chunk travels while the last one is computed with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """One chunk of the tensor `name`: where it starts, the base's part and the candidates'."""

    name: str
    start: int
    base: Tensor
    candidates: list[Tensor]


def staged(pieces: Iterator[Piece], device: torch.device) -> Iterator[Piece]:
    """The pieces on `device`, in order, one ahead of the caller.

    Two sets of page-locked buffers take turns, filled by this thread and emptied by a stream of their own, so that
    reading, the bus and the arithmetic overlap. On the CPU, where nothing can overlap, the same steps run one by one.

    >>> ones = Piece("w", 0, torch.zeros(2), [torch.ones(2)])
    >>> [piece.candidates[0].tolist() for piece in staged(iter([ones, ones, ones]), torch.device("cpu"))]
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    slots = (_Slot(device), _Slot(device))
    ahead: tuple[_Slot, Piece] | None = None
    for number, piece in enumerate(pieces):
        slot = slots[number % 2]
        sent = slot.send(piece)
        if ahead is not None:
            yield ahead[0].arrived(ahead[1])
        ahead = slot, sent
    if ahead is not None:
        yield ahead[0].arrived(ahead[1])


class _Slot:
    """The page-locked buffers of one piece on its way, and the event that says that it has arrived."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call, unused-ignore]
        self._event = torch.cuda.Event() if self._gpu else None  # type: ignore[no-untyped-call, unused-ignore]
        self._buffers: list[Tensor] = []

    def send(self, piece: Piece) -> Piece:
        """Start copying a piece; the last one that used these buffers must have left them."""
        if self._event is not None:
            self._event.synchronize()
        tensors = [self._copied(position, tensor) for position, tensor in enumerate((piece.base, *piece.candidates))]
        if self._event is not None and self._stream is not None:
            self._event.record(self._stream)
        return piece._replace(base=tensors[0], candidates=tensors[1:])

    def arrived(self, piece: Piece) -> Piece:
        """The piece, for use by the current stream once the copies are through."""
        if self._event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._event)
            for tensor in (piece.base, *piece.candidates):
                tensor.record_stream(current)  # its memory was taken on the other stream
        return piece

    def _copied(self, position: int, tensor: Tensor) -> Tensor:
        if tensor.device == self._device and self._gpu:
            return tensor
        size = tensor.numel() * tensor.dtype.itemsize
        if position == len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=torch.uint8))
        if self._buffers[position].numel() < size:
            self._buffers[position] = torch.empty(size, dtype=torch.uint8, pin_memory=self._gpu)
        locked = self._buffers[position][:size].view(tensor.dtype)
        locked.copy_(tensor)
        with torch.cuda.stream(self._stream):  # no stream, no effect
            return torch.empty_like(locked, device=self._device).copy_(locked, non_blocking=True)
