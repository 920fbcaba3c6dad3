"""Damaged variants of a file, as disks, transfers and strangers make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

Variant = tuple[str, bytes]
WRONG_TYPES: tuple[Variant, ...] = (
    ("empty", b""),
    ("text", b"this is no such file\n" * 20),
    ("zeros", bytes(4096)),
    ("zip", b"PK\x03\x04" + bytes(300)),
    ("script", b"#!/bin/sh\ntouch executed\n"),
    ("pickle", b"cos\nsystem\n(S'touch executed'\ntR."),
)


def corruptions(content: bytes, count: int, seed: int = 0) -> Iterator[Variant]:
    """`count` pairs (what was done, bytes): flipped bytes, truncations, zeroed stretches, in turn.

    The same for the same arguments. Half of the damage falls into the first 200 bytes, where
    headers are.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        near_start = bool(rng.integers(2))
        end = min(len(content), 200) if near_start else len(content)
        place = int(rng.integers(0, max(1, end)))
        if number % 3 == 0:
            damaged = bytearray(content)
            places = [place, *rng.integers(0, max(1, end), int(rng.integers(0, 8))).tolist()]
            for index in places:
                if damaged:
                    damaged[index] ^= int(rng.integers(1, 256))
            yield f"{len(places)} bytes flipped from {place}", bytes(damaged)
        elif number % 3 == 1:
            yield f"truncated to {place}", content[:place]
        else:
            length = int(rng.integers(1, max(2, len(content) // 4)))
            damaged = bytearray(content)
            damaged[place : place + length] = bytes(len(damaged[place : place + length]))
            yield f"{length} bytes zeroed from {place}", bytes(damaged)


def corrupted_files(source: Path, folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """`count` damaged copies of `source` in `folder`, then one of each wrong type, one by one.

    Each is written just before it is handed out, as number-name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variants = [*corruptions(source.read_bytes(), count, seed), *WRONG_TYPES]
    for number, (_, content) in enumerate(variants):
        path = folder / f"{number}-{source.name}"
        path.write_bytes(content)
        yield path
