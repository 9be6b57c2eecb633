"""lloyd_max.py - the least error of a quantizer with so many levels, for the weights of a model.

Lloyd and Max: the best levels for given values, without scales by group.  Each level is the mean of
the values nearest to it; repeated from levels as dense as the cube root of the density (Panter and
Dite), which is where many levels end up.
"""

import functools
import json
import os
import statistics

import numpy as np

SAMPLE = 1 << 18  # weights of a matrix, evenly spaced
TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def least_error(values, levels):
    """Norm of the error over the norm of the values."""
    x = np.sort(np.asarray(values, np.float64))
    total = float((x * x).sum())
    if not total or len(np.unique(x)) <= levels:
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(x)])
    edges = x[np.linspace(0, len(x) - 1, min(4096, len(x) // 4 + 2)).astype(int)]
    # Between two of so many quantiles: density 1 / width, its cube root times the width.
    steps = np.concatenate([[0.0], np.cumsum(np.diff(edges) ** (2 / 3))])
    at = np.interp((np.arange(levels) + 0.5) / levels * steps[-1], steps, edges)
    kept, before = 0.0, -1.0
    while kept - before > 1e-9 * total:
        before = kept
        cuts = np.searchsorted(x, (at[1:] + at[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(x)]])
        n = np.diff(ends)
        at = np.where(n > 0, np.diff(sums[ends]) / np.maximum(n, 1), at)
        kept = float((n * at * at).sum())  # the error is what is left of the sum of squares
    return float(np.sqrt(max(0.0, 1 - kept / total)))


@functools.lru_cache(maxsize=None)
def normal(levels):
    """Of normally distributed weights."""
    d = statistics.NormalDist()
    n = 1 << 14
    return least_error([d.inv_cdf((i + 0.5) / n) for i in range(n)], levels)


# ---- a model's weights ----

def _header(path):
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        if size > 100_000_000:
            raise ValueError(f"{path}: no safetensors file")
        return 8 + size, json.loads(f.read(size))


def _places(folder):
    """{tensor: (file, offset of the data, entry)}"""
    index = os.path.join(folder, "model.safetensors.index.json")
    names = ["model.safetensors"]
    if not os.path.exists(os.path.join(folder, names[0])):
        with open(index, encoding="utf-8") as f:
            names = sorted(set(json.load(f)["weight_map"].values()))
    places = {}
    for name in names:
        path = os.path.join(folder, os.path.basename(name))
        offset, header = _header(path)
        places.update({k: (path, offset, v) for k, v in header.items() if k != "__metadata__"})
    return places


def _weights(place):
    path, offset, entry = place
    kind = TYPES.get(entry["dtype"])
    begin, end = entry["data_offsets"]
    if kind is None or end <= begin:
        return None
    n = (end - begin) // kind.itemsize
    data = np.memmap(path, np.uint8, "r", offset + begin, end - begin)[:n * kind.itemsize]
    step = max(1, n // SAMPLE)
    if step > 1 and step % 2 == 0:
        step += 1  # not the same columns of every row
    x = data.view(kind)[::step]
    return (x.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else x


def of_model(folder, modules, bits):
    """{(module, bits): least error}; None where the model is not there or cannot be read."""
    try:
        places = _places(folder)
        found = {}
        for module in modules:
            place = places.get(module + ".weight")
            x = _weights(place) if place else None
            for b in bits if x is not None else ():
                found[module, b] = least_error(x, 1 << b)
        return found or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
