"""roofline.py - what the benchmark's points reached beside what the device can do.

Work and time are read from the file (/experiments/NAME/seeds/S/roofline); the limits are those of
the makers' data sheets: memory, and dense 16-bit tensor cores.
"""

import math

LIMITS = (  # part of the device's name, GB/s, TFLOP/s; the first that fits
    ("H200", 4800, 989), ("H100 NVL", 3900, 835), ("H100 PCIe", 2000, 756), ("H100", 3350, 989),
    ("A100-SXM4-80GB", 2039, 312), ("A100 80GB PCIe", 1935, 312), ("A100", 1555, 312),
)


def limits_of(device):
    """(GB/s, TFLOP/s) or None."""
    return next(((gb, tf) for part, gb, tf in LIMITS if part in device), None)


def read(f, names):
    """[(experiment, device, {point: (GFLOP / GB, GB/s, TFLOP/s)})], the first seed that has it."""
    out = []
    for name in names:
        seeds = f.get(f"experiments/{name}/seeds") or {}
        for seed in seeds:
            g = seeds[seed].get("roofline")
            if g is None or "gbyte_per_s" not in g:
                continue
            columns = [g[c][...] for c in ("gbyte", "gflop", "gbyte_per_s", "tflop_per_s")]
            points = {str(p): (float(flop / gb), float(rate), float(speed)) for p, gb, flop, rate,
                      speed in zip(g["point"].asstr()[...], *columns)
                      if all(map(math.isfinite, (gb, flop, rate, speed))) and gb > 0}
            device = seeds[seed].attrs.get("device", seeds[seed].attrs.get("gpu", ""))
            if points:
                out.append((name, str(device), points))
            break
    return out


def shown_points(runs):
    """The first prompt, the steps behind it, the largest batch."""
    names = list(runs[0][2])
    first = [next((n for n in names if n.startswith(k)), None) for k in ("prefill", "decode")]
    batches = [n for n in names if n.startswith("throughput")]
    return [n for n in first + batches[-1:] if n]
