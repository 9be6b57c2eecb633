#!/usr/bin/env python3
"""rank_use.py - how busy ranks are between the first job's start and the last one's end:

    mpirun -np 4 ./llq_sweep sweeps/x.toml 2>&1 | rank_use.py

Reads what a sweep says as it says it: a job ends when its line arrives, its seconds are in it to a
tenth.  A line a rank, then the efficiency: the jobs' seconds over ranks times the time between.
"""

import re
import sys
import time

JOB = re.compile(r"^\[ *\d+/\d+\] (\S+ seed \d+) .*\(rank (\d+), ([\d.]+) s\)")


def main():
    ranks = {}
    for line in sys.stdin:
        now = time.monotonic()
        job = JOB.search(line)
        if job:
            name, rank, seconds = job.groups()
            ranks.setdefault(int(rank), []).append((now - float(seconds), now, name))
        else:
            print(line, end="")
    jobs = [j for r in ranks.values() for j in r]
    if not jobs:
        sys.exit("rank_use.py: no job has ended")
    first, last = min(j[0] for j in jobs), max(j[1] for j in jobs)
    seconds = sorted(j[1] - j[0] for j in jobs)
    print("| rank | jobs | busy, s | first start, s | last end, s | longest | last |\n|---|---|---|---|---|---|---|")
    for rank in sorted(ranks):
        mine = ranks[rank]
        longest, latest = max(mine, key=lambda j: j[1] - j[0]), max(mine, key=lambda j: j[1])
        print(
            f"| {rank} | {len(mine)} | {sum(j[1] - j[0] for j in mine):.2f} | {min(j[0] for j in mine) - first:.2f} "
            f"| {latest[1] - first:.2f} | {longest[2]}: {longest[1] - longest[0]:.1f} s "
            f"| {latest[2]}: {latest[1] - latest[0]:.1f} s |"
        )
    print(
        f"{len(jobs)} jobs of {seconds[0]:.2f} to {seconds[-1]:.2f} s on {len(ranks)} ranks: "
        f"{100 * sum(seconds) / (len(ranks) * (last - first)):.1f} % of {last - first:.2f} s"
    )


main()
