"""The tasks of bench_eval through transformers, on the same checkpoint and prompts, beside its seconds:

    bench_eval --prompts PROMPTS.json FOLDER ... && eval_transformers.py FOLDER PROMPTS.json COQA PERPLEXITY

CoQA: 16 new ids, forced, in batches of 32, longest prompts first as lm-evaluation-harness has them,
padded on the left.  Perplexity: the windows one by one.  fp16; the first batch and window warm up.
"""

import json
import sys
import time

import torch
import transformers

N_NEW, BATCH = 16, 32


def answers(model, prompts):
    """New ids of a batch."""
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device="cuda")
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device="cuda")
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=N_NEW,
        min_new_tokens=N_NEW,
        do_sample=False,
        pad_token_id=0,
    )
    return out[:, longest:].tolist()


def loss(model, window):
    ids = torch.tensor([window], device="cuda")
    logits = model(ids, use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def seconds(run, items):
    run(items[0])
    torch.cuda.synchronize()
    start = time.perf_counter()
    for item in items:
        run(item)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    folder, prompts, *ours = sys.argv[1:]
    with open(prompts, encoding="utf-8") as f:
        tasks = json.load(f)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float16, device_map={"": 0}
    ).eval()
    coqa = sorted(tasks["coqa"], key=len, reverse=True)
    batches = [coqa[i : i + BATCH] for i in range(0, len(coqa), BATCH)]
    with torch.inference_mode():
        theirs = [
            seconds(lambda batch: answers(model, batch), batches),
            seconds(lambda window: loss(model, window), tasks["windows"]),
        ]
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, transformers "
        f"{transformers.__version__}, fp16"
    )
    titles = f"CoQA, {len(coqa)} prompts", f"perplexity, {len(tasks['windows'])} windows"
    for i, title in enumerate(titles):
        print(f"{title}: {theirs[i]:.3f} s", end="")
        print(f", llq_sweep {float(ours[i]):.3f} s: {theirs[i] / float(ours[i]):.1f} times" if ours else "")


main()
