#!/usr/bin/env python3
"""bench_transformers.py - the same checkpoint through transformers (and bitsandbytes, where it can be
imported), beside the figures that bench_points wrote of llq_sweep, on the same GPU:

    bench_points FOLDER cuda 5 FILE.csv && bench_transformers.py FOLDER FILE.csv      (make gpu-compare)

prefill: a prompt of 512 ids to the first new id on the host.  decode: 128 ids more behind it, greedy,
batch 1, a token.  b1, b4, b8: tokens a second of 128 new ids behind prompts of 16, the prompts' time
included.  Medians of --repeats runs behind --warmup.  A checkpoint of random weights without
tokenizer will do: no time here depends on values.  A format that fails is named, and the status is 1.
"""

import argparse
import csv
import statistics
import sys
import time

PROMPT, NEW, SHORT, BATCHES = 512, 128, 16, (1, 4, 8)
COLUMNS = ("prefill", "decode") + tuple(f"b{b}" for b in BATCHES) + ("weights",)
FORMS = (".2f", ".3f", ".0f", ".0f", ".0f", ".1f")

# What bitsandbytes 0.50 gave on one H200 with Llama-3.2-1B shapes, for machines without it.
STATED = {
    "nf4 double": (14.0, 10.0, 100, 392, 628, 965.13),
    "fp4 double": (14.5, 11.1, 90, 386, 609, 965.13),
    "nf4": (12.2, 10.0, 100, 403, 697, 965.13),
    "LLM.int8": (29.8, 23.5, 43, 142, 281, 1429.13),
}


def median_ms(torch, run, repeats, warmup=2):
    times = []
    for i in range(warmup + repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i >= warmup:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def ceilings(torch):
    """Copy bandwidth in TB/s, read and written bytes counted, and bf16 products in TFLOP/s."""
    a = torch.randint(0, 2**31 - 1, (2**30,), dtype=torch.int32, device="cuda")
    b = torch.empty_like(a)
    copy = 2 * a.numel() * 4 / median_ms(torch, lambda: b.copy_(a), 9) * 1e-9
    del a, b
    n = 8192
    x, y = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * n**3 / median_ms(torch, lambda: torch.matmul(x, y), 9) * 1e-9
    return copy, product


def ids(torch, model, batch, length):
    generator = torch.Generator(device="cuda").manual_seed(1)
    return torch.randint(
        0, model.config.vocab_size, (batch, length), device="cuda", generator=generator
    )


def generate(torch, model, prompt, n_new):
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_new,
        min_new_tokens=n_new,
        do_sample=False,
        pad_token_id=0,
    )


def measure(torch, model, repeats, warmup):
    def ms(run):
        return median_ms(torch, run, repeats, warmup)

    long = ids(torch, model, 1, PROMPT)
    with torch.inference_mode():
        prefill = ms(lambda: model(long, use_cache=True, logits_to_keep=1).logits.argmax(-1).item())
        first = ms(lambda: generate(torch, model, long, 1))
        all_of_it = ms(lambda: generate(torch, model, long, 1 + NEW))
        rates = []
        for batch in BATCHES:
            prompt = ids(torch, model, batch, SHORT)
            rates.append(1e3 * batch * NEW / ms(lambda: generate(torch, model, prompt, NEW)))
    weights = model.get_memory_footprint() / 2**20
    return (prefill, (all_of_it - first) / NEW, *rates, weights)


def forms(torch):
    """Names as bench_points has them -> arguments of from_pretrained()."""
    out = {"bf16": dict(dtype=torch.bfloat16), "fp16": dict(dtype=torch.float16)}
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as e:
        return out, f"bitsandbytes cannot be imported ({e})"

    def four_bits(quant_type, double):
        return dict(
            dtype=torch.float16,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=quant_type,
                bnb_4bit_use_double_quant=double,
                bnb_4bit_compute_dtype=torch.float16,
            ),
        )

    out["nf4 double"] = four_bits("nf4", True)
    out["fp4 double"] = four_bits("fp4", True)
    out["nf4"] = four_bits("nf4", False)
    out["LLM.int8"] = dict(
        dtype=torch.float16, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    return out, f"bitsandbytes {bitsandbytes.__version__}"


def read_ours(path):
    """format -> what COLUMNS says, None where a figure is missing."""
    ours = {}
    with open(path, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            at, value = int(row["at"]), float(row["median"])
            figures = ours.setdefault(row["format"], dict.fromkeys(COLUMNS))
            if row["what"] in ("prefill", "decode") and at == PROMPT:
                figures[row["what"]] = value
            elif row["what"] == "throughput" and f"b{at}" in figures:
                figures[f"b{at}"] = value
            elif row["what"] == "weights":
                figures["weights"] = value
    return {name: tuple(f[c] for c in COLUMNS) for name, f in ours.items()}


def ratio(column, theirs, ours):
    """How many times better ours is: times and sizes fall, rates rise."""
    return theirs / ours if column in ("prefill", "decode", "weights") else ours / theirs


def cell(value, form):
    return "" if value is None else format(value, form)


HEAD = (
    "| format | whose | prefill 512, ms | decode b1, ms/token | b1, tokens/s | b4 | b8 | weights, MiB |\n"
    "|---|---|---|---|---|---|---|---|"
)


def print_rows(name, whose, other, mine):
    """Theirs, ours and the ratios of one format; a run that is cut short keeps what was printed."""
    if other:
        cells = " | ".join(cell(v, f) for v, f in zip(other, FORMS))
        print(f"| {name} | {whose} | {cells} |", flush=True)
    if mine:
        cells = " | ".join(cell(v, f) for v, f in zip(mine, FORMS))
        print(f"| {name} | llq_sweep | {cells} |", flush=True)
    if mine and other:
        cells = " | ".join(
            cell(ratio(c, t, m) if m else None, ".1f") for c, t, m in zip(COLUMNS, other, mine)
        )
        print(f"| {name} | times better | {cells} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="the checkpoint (make_model writes one)")
    parser.add_argument("csv", nargs="?", help="what bench_points wrote")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="these formats only")
    options = parser.parse_args()
    if options.repeats < 1 or options.warmup < 0:
        parser.error("--repeats must be at least 1, --warmup at least 0")
    ours = read_ours(options.csv) if options.csv else {}

    try:
        import torch
        import transformers
    except ImportError as e:
        sys.exit(f"bench_transformers.py: {e}")
    if not torch.cuda.is_available():
        sys.exit("bench_transformers.py: no CUDA device answers")
    transformers.logging.set_verbosity_error()

    copy, product = ceilings(torch)
    wanted, note = forms(torch)
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, transformers "
        f"{transformers.__version__}, {note}; copies {copy:.2f} TB/s, bf16 products "
        f"{product:.0f} TFLOP/s; medians of {options.repeats}\n"
    )
    print(HEAD, flush=True)
    done, failed = set(), False
    for name, how in wanted.items():
        if options.only and name not in options.only:
            continue
        model = None
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                options.folder, device_map={"": 0}, **how
            ).eval()
            theirs = measure(torch, model, options.repeats, options.warmup)
            print_rows(name, "transformers", theirs, ours.get(name))
            done.add(name)
        except Exception as e:  # whatever two libraries throw; the other formats are worth having
            print(f"bench_transformers.py: {name}: {type(e).__name__}: {e}", file=sys.stderr)
            failed = True
        del model
        torch.cuda.empty_cache()
    stated = {n: f for n, f in STATED.items() if n not in wanted}
    if options.only:
        stated = {n: f for n, f in stated.items() if n in options.only}
    for name in list(stated) + [n for n in ours if n not in stated and n not in done]:
        print_rows(name, "stated earlier *", stated.get(name), ours.get(name))
    if stated:
        print("\n\\* bitsandbytes 0.50 on one H200, not measured in this run")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
