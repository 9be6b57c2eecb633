"""Quantizes and dequantizes the seven linears of each layer, to see what it costs.

NF4 as bitsandbytes does it (blocks of 64 over the flattened weight), and symmetric
round-to-nearest of b bits in groups of 128 inputs with scale max|w| / (2^(b-1) - 1).
"""

import torch

from llama import LINEARS

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0]


def nf4(w, block=64):
    table = torch.tensor(NF4, dtype=torch.float32, device=w.device)
    thresholds = (table[1:] + table[:-1]) / 2        # a tie goes to the lower code
    blocks = w.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    codes = torch.bucketize(blocks * (1.0 / absmax), thresholds, right=False)
    return (table[codes] * absmax).reshape(w.shape)


def rtn(w, bits, group=128):
    groups = w.reshape(-1, group)
    top = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(dim=1, keepdim=True) / top
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = torch.clamp(torch.round(groups / scale), -top - 1, top)
    return (codes * scale).reshape(w.shape)


METHODS = {"none": None, "nf4": nf4}
METHODS |= {f"rtn{b}": (lambda w, b=b: rtn(w, b)) for b in (8, 4, 3, 2)}


@torch.no_grad()
def apply(model, method):
    """Replaces the weights of every layer's linears in place."""
    function = METHODS[method]
    if function is None:
        return
    for layer in model.model.layers:
        for name in LINEARS:
            weight = layer.get_submodule(name).weight
            weight.copy_(function(weight.float()))
