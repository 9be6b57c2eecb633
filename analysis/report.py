#!/usr/bin/env python3
"""report.py - one HTML page, tables (Markdown, CSV) and the size-quality plot of a results file of llq_sweep.

It draws and formats only: every number, intervals included, is read from the file.
"""

import argparse
import csv
import math
import os
import sys

import llq_read
import page
import plot

# Columns of the Markdown summary that are no metrics, with their heading.
FACTS = (
    ("name", "experiment"),
    ("bits_per_weight", "bits/weight"),
    ("model_mb", "MiB"),
    ("compression", "compression"),
    ("n_seeds", "seeds"),
    ("status", "status"),
)
CHOICE = ("_acc", "_acc_norm", "lambada_perplexity")  # endings of the multiple-choice tasks
QUALITY = ("coqa_f1", "coqa_em", "perplexity", "kl", "top1_agreement")


def decimals_for(low, high):
    """Digits after the point that show an interval's half width with two digits."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    return max(0, min(6, 1 - math.floor(math.log10(half))))


def number(value, decimals=None):
    if not math.isfinite(value):
        return "–"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def with_interval(value, low, high):
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value)
    d = decimals_for(low, high)
    return f"{number(value, d)} [{number(low, d)}, {number(high, d)}]"


def cell(column, row):
    value = column.values[row]
    if column.values.dtype == object:
        return str(value)
    if column.values.dtype == bool:
        return "yes" if value else "no"
    return number(float(value)) if column.values.dtype.kind == "f" else str(int(value))


def heading(column):
    arrow = {True: " ↑", False: " ↓"}.get(column.higher_is_better, "")
    unit = f" ({column.unit})" if column.unit not in ("", "1") else ""
    return column.name + unit + arrow


def markdown_table(headings, rows, texts):
    """texts: how many leading columns hold words, which stand at the left."""
    def line(cells):
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    marks = [":--" if i < texts else "--:" for i in range(len(headings))]
    return "\n".join([line(headings), line(marks)] + [line(r) for r in rows]) + "\n"


def metric_names(summary):
    """Every column that has an interval beside it, quality first."""
    found = [n for n in summary if n + "_ci_low" in summary and n + "_ci_high" in summary]
    known = [n for n in QUALITY if n in found]
    quality = known + [n for n in found if n not in known and n.endswith(CHOICE)]
    return quality, [n for n in found if n not in quality]


def metrics_table(summary, facts, metrics):
    headings = [h for n, h in facts if n in summary] + [heading(summary[m]) for m in metrics]
    rows = []
    for r in range(summary.n_rows):
        row = [cell(summary[n], r) for n, _ in facts if n in summary]
        for m in metrics:
            row.append(with_interval(float(summary[m].values[r]),
                                     float(summary[m + "_ci_low"].values[r]),
                                     float(summary[m + "_ci_high"].values[r])))
        rows.append(row)
    return markdown_table(headings, rows, 1)


def summary_markdown(f, summary):
    quality, speed = metric_names(summary)
    a = f.attrs
    parts = [f"# {a['name'] or 'Sweep'}\n",
             f"llq_sweep {a['llq_version']} ({a['git_commit']}), started {a['created']}; "
             f"{a['jobs_ok']} of {a['jobs_total']} jobs succeeded, {a['jobs_failed']} failed"
             f"{'' if a['complete'] else '; **the sweep is not complete**'}.\n",
             f"Brackets: {100 * a['confidence']:g} % confidence intervals.\n",
             "## Size and quality\n", metrics_table(summary, FACTS, quality)]
    parts += [f"Warning: {text}.\n" for text in llq_read.warnings_of(summary)]
    if speed:
        parts += ["## Speed and memory\n", metrics_table(summary, FACTS[:1], speed)]
    return "\n".join(parts)


def comparisons_markdown(f, comparisons):
    lines = [f"# {f.attrs['name'] or 'Sweep'}: comparisons\n"]
    if comparisons.n_rows == 0:
        return lines[0] + "\nThe file holds no comparison.\n"
    names = [n for n in ("a", "b", "metric", "delta", "p_value", "p_holm", "verdict",
                         "items_needed") if n in comparisons]
    rows = []
    for r in range(comparisons.n_rows):
        row = []
        for n in names:
            if n == "delta" and "ci_low" in comparisons:
                row.append(with_interval(*(float(comparisons[c].values[r])
                                           for c in ("delta", "ci_low", "ci_high"))))
            else:
                row.append(cell(comparisons[n], r))
        rows.append(row)
    headings = ["delta [interval]" if n == "delta" else n for n in names]
    lines.append(markdown_table(headings, rows, 3))
    return "\n".join(lines)


def write_csv(path, table):
    """Every column and every digit of the file; NaN is an empty field."""
    with open(path, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(list(table))
        for r in range(table.n_rows):
            row = []
            for column in table.values():
                value = column.values[r]
                if column.values.dtype.kind == "f":
                    row.append("" if math.isnan(value) else repr(float(value)))
                else:
                    row.append(str(value))
            writer.writerow(row)


def write_text(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def write_report(f, folder, size):
    """Writes everything; returns the paths."""
    def to(name):
        return os.path.join(folder, name)

    summary = llq_read.read_table(f, "summary")
    comparisons = llq_read.read_table(f, "comparisons")
    write_text(to("summary.md"), summary_markdown(f, summary))
    write_text(to("comparisons.md"), comparisons_markdown(f, comparisons))
    write_csv(to("summary.csv"), summary)
    write_csv(to("comparisons.csv"), comparisons)
    write_text(to("report.html"), page.make(f))
    written = ["report.html", "summary.md", "comparisons.md", "summary.csv", "comparisons.csv"]
    sweep, baseline = f.attrs["name"], f.attrs["baseline"]
    confidence = float(f.attrs["confidence"])

    def draw(stem, title, make):
        """Keeps the names of what was drawn; `make` gets title and paths."""
        names = [stem + ".png", stem + ".pdf"]
        drawn = make(f"{sweep}: {title}" if sweep else title[0].upper() + title[1:],
                     [to(n) for n in names])
        written.extend(names if drawn else [])
        return drawn

    if not draw("size_quality", "size and quality", lambda title, paths: plot.size_quality(
            summary, size, title, baseline, confidence, paths)):
        print(f"report.py: no experiment has both {size} and a quality metric: no plot",
              file=sys.stderr)
    draw("latency_quality", "latency and quality", lambda title, paths: plot.size_quality(
        summary, plot.LATENCY, title, baseline, confidence, paths))
    draw("differences", "differences, pair by pair",
         lambda title, paths: plot.differences(comparisons, title, paths))
    return [to(name) for name in written]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(" - ")[1])
    parser.add_argument("results", help="results file (HDF5) of llq_sweep")
    parser.add_argument("-o", "--output", metavar="DIR", required=True,
                        help="folder to write into; made if absent")
    parser.add_argument("--size", choices=sorted(plot.SIZES), default="model_mb",
                        help="what the plot has on its x axis (default: %(default)s)")
    options = parser.parse_args()
    try:
        with llq_read.open_results(options.results) as f:
            os.makedirs(options.output, exist_ok=True)
            for path in write_report(f, options.output, options.size):
                print(path)
    except (llq_read.NotResults, OSError) as e:
        print(f"report.py: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
