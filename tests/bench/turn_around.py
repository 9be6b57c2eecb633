#!/usr/bin/env python3
"""turn_around.py - what a rank loses beside its work, from the log of a sweep (RESULTS.h5.log):

    turn_around.py results.h5.log

A line a job: its stages, and beyond quantizing, tasks and benchmark: the wait for it behind the job
before, what its total has beside its stages, and its record.  Then mean and largest, and setting up.
"""

import re
import statistics
import sys

JOB = re.compile(
    r"rank (\d+): (\S+) seed (\d+): seconds: ([\d.]+) idle before, (.*)packing alone [\d.]+, "
    r"model given back in [\d.]+, record ([\d.]+)"
)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: turn_around.py RESULTS.h5.log")
    with open(sys.argv[1], encoding="utf-8") as f:
        text = f.read()
    beyond = []
    print("| job | stages, s | total | beyond them |\n|---|---|---|---|")
    for rank, name, seed, idle, pairs, record in JOB.findall(text):
        stages = {k: float(v) for k, v in (p.split() for p in pairs.split(", ") if p)}
        total = stages.pop("total")
        beyond.append(float(idle) + total - sum(stages.values()) + float(record))
        listed = ", ".join(f"{k} {v:.3f}" for k, v in stages.items())
        print(f"| {name} seed {seed} | {listed} | {total:.3f} | {beyond[-1]:.4f} |")
    if not beyond:
        sys.exit(f"turn_around.py: {sys.argv[1]} names no job's seconds")
    print(
        f"{len(beyond)} jobs: beyond quantizing, tasks and benchmark {statistics.mean(beyond):.4f} s a job, "
        f"{max(beyond):.4f} at most"
    )
    for line in re.findall(r"rank \d+: set up in .*|rank \d+: .* loaded in .*", text):
        print(line)


main()
