#!/usr/bin/env python3
"""beside.py - two results files of one sweep, item by item: the same sweep on two engines, say.

    llq_sweep --backend cuda -o gpu.h5 S.toml; llq_sweep --backend cpu -o cpu.h5 S.toml
    beside.py gpu.h5 cpu.h5

Ends with status 1, and says where, when they are not the same within what data types explain: a
window's mean loss further apart than --nll, or another generated text or score of an item.  Where
the perplexity is above --noise, text is noise (ids are nearly tied) and only counted.
"""

import argparse
import sys

import llq_read
import numpy as np


def jobs(f):
    return {(e, s) for e in f["experiments"] for s in f[f"experiments/{e}/seeds"]}


def items(f, experiment, seed, task):
    if f"experiments/{experiment}/seeds/{seed}/{task}" not in f:
        return {}
    return llq_read.read_items(f, experiment, seed, task)


def differing(a, b, names):
    """How many items differ in any of the lists, and how many there are."""
    lists = [(a[n], b[n]) for n in names if n in a and n in b]
    if not lists:
        return 0, 0
    if any(len(x) != len(y) for x, y in lists):
        return max(max(len(x), len(y)) for x, y in lists), max(len(x) for x, _ in lists)
    return int(np.any([x != y for x, y in lists], axis=0).sum()), len(lists[0][0])


def furthest(a, b):
    """Largest difference of a window's mean loss; infinite where windows are not the same."""
    if len(a) != len(b) or (np.isnan(a) != np.isnan(b)).any():
        return np.inf
    return float(np.nanmax(np.abs(a - b), initial=0))


class Experiment:
    """What two files say of one experiment, over its seeds."""

    def __init__(self, files, name, seeds):
        self.texts = self.n_texts = self.scores = 0
        self.nll = 0.0
        for seed in seeds:
            a, b = (items(f, name, seed, "coqa") for f in files)
            texts, n = differing(a, b, ["document_id", "turn", "prediction"])
            self.texts += texts
            self.n_texts += n
            self.scores += differing(a, b, ["f1", "em", "f1_official", "em_official"])[0]
            texts, n = differing(*(items(f, name, seed, "sanity") for f in files), ["generated"])
            self.texts += texts
            self.n_texts += n
            a, b = (items(f, name, seed, "perplexity").get("window_nll", np.zeros(0)) for f in files)
            self.nll = max(self.nll, furthest(a, b))


def of(table, name, column):
    row = table.texts("name").index(name)
    return table.numbers(column)[row]


def print_table(names, summaries, found):
    print(
        "| experiment | F1 | | perplexity | | a window's loss, furthest | texts that differ | scores "
        "| decode, ms/token | |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for n in names:
        f1, ppl, ms = (
            " | ".join(format(of(s, n, c), form) for s in summaries)
            for c, form in (("coqa_f1", ".4f"), ("perplexity", ".4f"), ("decode_ms_per_token", ".3f"))
        )
        x = found[n]
        print(f"| {n} | {f1} | {ppl} | {x.nll:.1e} | {x.texts} of {x.n_texts} | {x.scores} | {ms} |")


def compare(files, limits):
    """Prints the table; the reasons why the files are not the same."""
    wrong = []
    ours, theirs = (jobs(f) for f in files)
    for e, s in sorted(ours ^ theirs):
        wrong.append(f"{e} seed {s}: in one file only")
    both = sorted(ours & theirs)
    for e, s in both:
        for f in files:
            status = f[f"experiments/{e}/seeds/{s}"].attrs.get("status")
            if status != "success":
                wrong.append(f"{e} seed {s}: {status} in {f.filename}")
    summaries = [llq_read.read_table(f, "summary") for f in files]
    names = [n for n in summaries[0].texts("name") if any(e == n for e, _ in both)]
    found = {n: Experiment(files, n, [s for e, s in both if e == n]) for n in names}
    print_table(names, summaries, found)
    for n, x in found.items():
        if not x.nll <= limits.nll:
            wrong.append(f"{n}: a window's mean loss is {x.nll:.2e} apart (allowed {limits.nll:g})")
        if max(of(s, n, "perplexity") for s in summaries) > limits.noise:
            continue
        if x.texts or x.scores:
            wrong.append(f"{n}: {x.texts} of {x.n_texts} texts and {x.scores} scores differ")
    if not both:
        wrong.append("no job is in both files")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs=2, metavar="FILE.h5")
    parser.add_argument("--nll", type=float, default=5e-3, help="nats a token (%(default)s)")
    parser.add_argument("--noise", type=float, default=100, help="perplexity (%(default)s)")
    options = parser.parse_args()
    try:
        files = [llq_read.open_results(name) for name in options.files]
    except llq_read.NotResults as e:
        print(f"beside.py: {e}", file=sys.stderr)
        sys.exit(2)
    for f, name in zip(files, options.files):
        devices = {f[f"experiments/{e}/seeds/{s}"].attrs.get("gpu", "") for e, s in jobs(f)}
        print(
            f"{name}: {', '.join(sorted(devices))}; {f.attrs['jobs_ok']} of {f.attrs['jobs_total']} jobs "
            f"succeeded; commit {f.attrs['git_commit']}"
        )
    wrong = compare(files, options)
    for line in wrong:
        print(f"beside.py: {line}", file=sys.stderr)
    if not wrong:
        print("the same: every text and score, but where text is noise, and every window's loss within "
              f"{options.nll:g}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
