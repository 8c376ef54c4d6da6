"""Random draws that depend on a seed, a sample's index and the draw's name, and on nothing else.

A generator object per sample would cost more than the sample. Here every number is a hash of its coordinates
(a counter-based generator, as Philox is), computed for a whole batch at once in 64-bit integer arithmetic. So sample i
is the same for every batch, worker, rank and order. The global random state is neither read nor changed.

Numbers are drawn on the CPU, wherever the indices are, and the caller moves them. So a sample's draws are bitwise
identical on every device. Devices need no float64, which Apple's and some of Intel's do not have.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

# variance of `truncated_normal`: 1 - 2 b f(b) / (2 F(b) - 1) with the normal's density f, distribution F, and b = 2
TRUNCATED_VARIANCE = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as a signed integer: the step of SplitMix64 (Steele et al. 2014)
_32_BITS = (1 << 32) - 1
_MULTIPLIERS = (-4658895280553007687, -7723592293110705685)


def _scramble(x: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer in place: every input bit flips every output bit with probability one half."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        # int64 shifts fill with the sign bit, but the algorithm needs zeros: mask the filled bits off
        x ^= (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        x *= multiplier
    x ^= (x >> 31).bitwise_and_((1 << 33) - 1)
    return x


def _key(seed: int, stream: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(seed: int, indices: Tensor, size: int, stream: str) -> Tensor:
    """Return independent draws from the open interval (0, 1).

    Args:
        seed: any integer.
        indices: (B,) int64, indices of the samples.
        size: how many numbers each sample gets.
        stream: name of the draw; different names give independent numbers.

    Returns:
        (B, size) float64 on the CPU.
    """
    rows = _scramble(indices.cpu() * _GOLDEN + _key(seed, stream))
    columns = torch.arange(1, size + 1) * _GOLDEN
    words = _scramble(rows[:, None] + columns)
    words >>= 12
    words &= (1 << 52) - 1
    # 52 bits plus one half: float64 represents it exactly, and the result is never 0 or 1
    return words.double().add_(0.5).mul_(2.0**-52)


def uniform_float32(seed: int, indices: Tensor, size: int, stream: str) -> Tensor:
    """Return draws like `uniform` in float32; a value that would round to 1 becomes the largest number below 1."""
    return uniform(seed, indices, size, stream).float().clamp_(max=1 - 2.0**-24)


def normal(seed: int, indices: Tensor, size: int, stream: str) -> Tensor:
    """Return independent standard normal draws, (B, size) float32; arguments as in `uniform`."""
    return (torch.erfinv(2 * uniform(seed, indices, size, stream) - 1) * math.sqrt(2)).float()


def truncated_normal(seed: int, indices: Tensor, size: int, stream: str) -> Tensor:
    """Return normal draws truncated to [-2, 2], BigGAN's noise, (B, size) float32; arguments as in `uniform`."""
    draws = uniform(seed, indices, size, stream).mul_(2).sub_(1).mul_(math.erf(math.sqrt(2)))
    return draws.erfinv_().mul_(math.sqrt(2)).float()


def integers(seed: int, indices: Tensor, high: int, stream: str) -> Tensor:
    """Return independent draws from 0..high-1, (B,) int64; arguments as in `uniform`."""
    return (uniform(seed, indices, 1, stream)[:, 0] * high).long()


def permutation(seed: int, indices: Tensor, high: int, stream: str) -> Tensor:
    """Return random permutations of 0..high-1, one per row, (B, high) int64; arguments as in `uniform`."""
    return uniform(seed, indices, high, stream).argsort(dim=1)


def seeds(seed: int, indices: Tensor, stream: str) -> Tensor:
    """Return seeds for other generators, (B,) int64 in 0..2**32-1, distinct for indices below 2**32.

    torch's generator on a CPU uses only the lower 32 bits of its seed. Among random seeds, two would soon be equal. So
    the seeds are the indices, scrambled by a one-to-one function (MurmurHash3's finalizer, with the key inside).
    """
    key = _key(seed, stream)
    x = (indices.cpu() + key).bitwise_and_(_32_BITS)
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> shift
        x = (x * multiplier).bitwise_and_(_32_BITS) ^ (key >> 32 & _32_BITS)
    return x ^ (x >> 16)


def generator_of(seed: int, index: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one sample, for other distributions or for so many draws that hashing costs more.

    Its draws depend on (seed, index, stream) and on how many came before; arguments as in `uniform`.
    """
    return torch.Generator().manual_seed(_key(seed, f"{index}/{stream}"))
