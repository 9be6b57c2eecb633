"""The products of bench_gemm through torch (cuBLAS): microseconds and TFLOP/s."""

import time

import torch

SHAPES = [("q|k|v", 3072, 2048), ("o", 2048, 2048), ("gate|up", 16384, 2048), ("down", 2048, 8192)]


def measure(name, n_rows, n_out, n_in):
    n_sets = min(16, (160 << 20) // (n_out * n_in * 2) + 1)
    x = torch.randn(n_rows, n_in, device="cuda", dtype=torch.bfloat16) * 0.05
    w = [torch.randn(n_out, n_in, device="cuda", dtype=torch.bfloat16) * 0.05 for _ in range(n_sets)]
    y = torch.empty(n_rows, n_out, device="cuda", dtype=torch.bfloat16)
    flop = 2 * n_rows * n_out * n_in
    n = int(4e-3 / (flop / 600e12)) + 2
    samples = []
    torch.cuda.synchronize()
    time.sleep(0.02)
    for i in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for j in range(n):
            torch.matmul(x, w[j % n_sets].t(), out=y)
        torch.cuda.synchronize()
        if i > 0:
            samples.append((time.perf_counter() - start) / n)
    s = sorted(samples)[2]
    print(f"torch {name:10} {n_rows:6} rows {s * 1e6:9.1f} us {flop / s * 1e-12:6.0f} TFLOP/s", flush=True)


measure("8192 cubed", 8192, 8192, 8192)
for rows in (512, 2048, 16384):
    for name, n_out, n_in in SHAPES:
        measure(name, rows, n_out, n_in)
