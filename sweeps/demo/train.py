#!/usr/bin/env python3
"""Trains the demo model on one GPU.

    python3 train.py [--steps N] [--out DIR]

Draws half a million documents (generate.py, on all processor cores), keeps them on
the GPU as token ids, and trains on whole documents plus, every fifth step, on
512-token windows of running text, which is what perplexity sees.  The tokens of
answers weigh more than the rest, so that copying from the story sets in early.
Weights are fp32 with bf16 autocast; the checkpoint is bf16.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import evaluate
import generate
import llama

HERE = os.path.dirname(os.path.abspath(__file__))
N_SHARDS, DOCUMENTS_PER_SHARD = 32, 16_000
TEXT_SHARDS = 12                 # of them, used again as running text
BUCKETS = (144, 224)             # document lengths, padded; few are longer, those are left out
WINDOW = 512
TOKENS_PER_STEP = 36_864
ANSWER_WEIGHT = 4.0
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.1, 500
STEPS, SCHEDULE = 30_000, 36_000   # the cosine would reach zero at SCHEDULE


def tokenize_shard(job):
    """One shard's documents without BOS and EOS: all ids in a row, and their lengths."""
    shard, avoid = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    documents = itertools.islice(generate.documents(generate.TRAIN_SEED + shard, avoid),
                                 DOCUMENTS_PER_SHARD)
    ids = [e.ids for e in tokenizer.encode_batch(list(documents), add_special_tokens=False)]
    flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int16)
    return flat, np.array([len(x) for x in ids])


class Data:
    """Batches of (input, target, weight), in an order that follows from the seed."""

    def __init__(self, config, device, n_shards):
        self.bos, self.eos, self.device = config["bos_token_id"], config["eos_token_id"], device
        tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
        self.a, self.colon, self.end = (tokenizer.token_to_id(t) for t in ("A", ":", "ĊĊ"))
        avoid = generate.held_out_stories()
        with multiprocessing.get_context("spawn").Pool() as pool:
            shards = pool.map(tokenize_shard, [(i, avoid) for i in range(n_shards)], chunksize=1)
        ids = np.concatenate([x for x, _ in shards])
        lengths = np.concatenate([n for _, n in shards])
        starts = np.cumsum(lengths) - lengths
        self.tables, low = [], 0
        for width in BUCKETS:
            chosen = np.flatnonzero((lengths > low) & (lengths <= width - 1))
            table = np.full((len(chosen), width + 1), self.eos, dtype=np.int16)
            table[:, 0] = self.bos
            for row, i in zip(table, chosen):
                row[1:1 + lengths[i]] = ids[starts[i]:starts[i] + lengths[i]]
            self.tables.append(torch.from_numpy(table).to(device))
            low = width - 1
        text = np.concatenate([x for x, _ in shards[:TEXT_SHARDS]])
        self.text = torch.from_numpy(text).to(device)
        self.sizes = [TOKENS_PER_STEP // width for width in BUCKETS]
        steps = np.array([len(t) / n for t, n in zip(self.tables, self.sizes)])
        self.shares = np.append(0.8 * steps / steps.sum(), 0.2)
        self.rng = np.random.default_rng(7)
        self.order = [None] * len(BUCKETS)
        self.at = [0] * len(BUCKETS)
        print(f"{len(lengths)} documents, {len(ids)} tokens, longest {lengths.max()}, "
              f"buckets {[len(t) for t in self.tables]}", flush=True)

    def batch(self):
        kind = self.rng.choice(len(self.shares), p=self.shares)
        if kind == len(BUCKETS):
            n = TOKENS_PER_STEP // WINDOW
            start = self.rng.integers(0, len(self.text) - WINDOW - 1, n)
            index = torch.from_numpy(start).to(self.device)[:, None]
            ids = self.text[index + torch.arange(WINDOW + 1, device=self.device)].long()
        else:
            table, n = self.tables[kind], self.sizes[kind]
            if self.order[kind] is None or self.at[kind] + n > len(table):
                order = self.rng.permutation(len(table))
                self.order[kind] = torch.from_numpy(order).to(self.device)
                self.at[kind] = 0
            rows = self.order[kind][self.at[kind]:self.at[kind] + n]
            self.at[kind] += n
            ids = table[rows].long()
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), self.weights(ids)

    def weights(self, ids):
        """ANSWER_WEIGHT between "A:" and the blank line that ends the answer, 0 on padding."""
        place = torch.arange(ids.shape[1], device=self.device)
        begins = F.pad((ids[:, :-2] == self.a) & (ids[:, 1:-1] == self.colon), (2, 0))
        ends = F.pad(ids[:, :-1] == self.end, (1, 0))
        last_begin = torch.where(begins, place, -1).cummax(1).values
        last_end = torch.where(ends, place, -1).cummax(1).values
        inside = last_begin > last_end
        padding = F.pad((ids[:, :-1] == self.eos).int().cummax(1).values > 0, (1, 0))
        weight = torch.where(inside, ANSWER_WEIGHT, 1.0).masked_fill(padding, 0.0)
        return weight[:, 1:].contiguous()


def make_loss(model):
    def loss(ids, targets, weights):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(ids)
        nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        weights = weights.flatten()
        return (nll * weights).sum() / weights.sum()
    return torch.compile(loss, dynamic=False)


def learning_rate(step, schedule, peak):
    """Linear warm-up to `peak`, then half a cosine down to zero."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, schedule - WARM_UP)
    return peak * 0.5 * (1.0 + float(np.cos(np.pi * done)))


class Watch:
    """F1 on the held-out stories and perplexity on the held-out text, while training."""

    def __init__(self, device):
        self.device = device
        self.tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
        with open(os.path.join(HERE, "coqa-demo.json")) as f:
            self.records = json.load(f)["data"]
        with open(os.path.join(HERE, "heldout.txt")) as f:
            self.text = f.read()

    def look(self, model):
        model.eval()
        f1 = evaluate.last_turn(model, self.tokenizer, self.records, self.device, 16)[1]
        nll = evaluate.window_nll(model, self.tokenizer, self.text, 256, self.device)
        model.train()
        return statistics.fmean(f1), float(np.exp(np.mean(nll)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--schedule", type=int, default=SCHEDULE)
    parser.add_argument("--shards", type=int, default=N_SHARDS)
    parser.add_argument("--out", default=HERE)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE",
                        help="other sizes, as in config.json")
    parser.add_argument("--weight-decay", type=float, default=WEIGHT_DECAY)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--look-every", type=int, default=2_000)
    args = parser.parse_args()
    device = "cuda"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    began = time.monotonic()
    config = llama.CONFIG | {k: int(v) for k, v in (x.split("=") for x in args.set)}
    data = Data(config, device, args.shards)
    watch = Watch(device)
    print(f"data {time.monotonic() - began:.0f} s", flush=True)

    model = llama.Llama(config).to(device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": args.weight_decay},
                                   {"params": gains, "weight_decay": 0.0}],
                                  lr=args.learning_rate, betas=(0.9, 0.95), fused=True)
    loss_of = make_loss(model)
    running = torch.zeros((), device=device)
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.schedule, args.learning_rate)
        loss = loss_of(*data.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running += loss.detach()
        if (step + 1) % args.look_every == 0 or step + 1 == args.steps:
            f1, perplexity = watch.look(model)
            n = (step % args.look_every) + 1
            print(f"step {step + 1} loss {running.item() / n:.4f} F1 {f1:.3f} "
                  f"perplexity {perplexity:.4f} {time.monotonic() - began:.0f} s", flush=True)
            running.zero_()
            model.save(args.out)


if __name__ == "__main__":
    main()
