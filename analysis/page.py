"""page.py - one self-contained HTML page of a results file: tables, forest plots and fronts as SVG.

Nothing is loaded from anywhere, and little is computed but places on the page: every number and
interval stands in the results file.  Shares of a device's limits (roofline.py) and the least errors
of quantizers (lloyd_max.py, from the model's weights where these are) are the exceptions.
"""

import csv
import html
import math
import os

import numpy as np

import llq_read
import lloyd_max
import plot
import roofline

COLORS = {name: color for name, (color, _marker) in plot.STYLES.items()}
OTHER = plot.OTHER_STYLE[0]
VERDICTS = {"better": "#00795a", "worse": "#b3261e", "equivalent": "#0b57a4",
            "non_inferior": "#4b6fa8", "undecided": "#6b6b6b"}
TITLES = {"coqa_f1": "CoQA F1", "coqa_em": "CoQA exact match", "perplexity": "Perplexity",
          "kl": "KL divergence from unquantized", "top1_agreement": "Top-1 agreement"}
TITLES.update({f"{name}_{metric}": f"{title} {metric}" for name, title in (
    ("hellaswag", "HellaSwag"), ("arc_easy", "ARC easy"), ("arc_challenge", "ARC challenge"),
    ("piqa", "PIQA"), ("winogrande", "WinoGrande"), ("openbookqa", "OpenBookQA"), ("boolq", "BoolQ"),
    ("mmlu", "MMLU"), ("lambada", "LAMBADA")) for metric in ("acc", "acc_norm", "perplexity")})
RATIOS = ("perplexity", "kl", "lambada_perplexity")  # their differences are of logarithms

STYLE = """
:root{color-scheme:light dark;--line:#d8d8d8;--dim:#666;--bg:#fff;--fg:#1b1b1b;--band:#f4f5f7}
@media(prefers-color-scheme:dark){:root{--line:#3a3a3a;--dim:#a0a0a0;--bg:#151618;--fg:#e8e8e8;--band:#202226}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .4rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .2rem}p{margin:.4rem 0}.dim{color:var(--dim);font-size:.9rem}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
th{position:sticky;top:0;background:var(--band);font-weight:600}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
td.text,th.text{text-align:left}.ci{color:var(--dim)}
svg{display:block;width:100%;height:auto;max-width:46rem;min-width:26rem}
svg.forest{max-width:38rem;min-width:0}
svg.forest text{paint-order:stroke;stroke:var(--bg);stroke-width:4px}
svg text{font:13px system-ui,sans-serif;fill:var(--fg)}svg .dim{fill:var(--dim)}
.verdict{font-weight:600}nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem}nav a{color:inherit}
@media(max-width:40rem){body{padding:.6rem;font-size:15px}table{font-size:.8rem}th,td{padding:.2rem .4rem}}
"""


def esc(text):
    return html.escape(str(text), quote=True)


def num(x, digits=3):
    if not math.isfinite(x):
        return "–"
    a = abs(x)
    if a >= 1000:
        return f"{x:,.0f}".replace(",", "\u202f")
    return f"{x:.{digits}g}" if a < 1 else f"{x:.4g}"


def title_of(metric):
    return TITLES.get(metric, metric.replace("_", " "))


def table(headings, rows, texts=1):
    """Cells are HTML already."""
    head = "".join(f'<th class="text">{esc(h)}</th>' if i < texts else f"<th>{esc(h)}</th>"
                   for i, h in enumerate(headings))
    body = "".join("<tr>" + "".join(f'<td class="text">{c}</td>' if i < texts else f"<td>{c}</td>"
                                    for i, c in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def with_interval(x, low, high):
    text = num(x)
    if math.isfinite(low) and math.isfinite(high):
        text += f' <span class="ci">[{num(low)}, {num(high)}]</span>'
    return text


# ---- tables ----

def metrics_of(summary):
    return [n for n in summary if n + "_ci_low" in summary and np.isfinite(summary.numbers(n)).any()]


def summary_table(summary, metrics, facts):
    facts = [f for f in facts if f in summary]
    headings = ["experiment"] + facts
    for m in metrics:
        arrow = {True: " ↑", False: " ↓"}.get(summary[m].higher_is_better, "")
        unit = f" ({summary[m].unit})" if summary[m].unit not in ("", "1") else ""
        headings.append(title_of(m) + unit + arrow)
    rows = []
    for r in range(summary.n_rows):
        row = [esc(summary["name"].values[r])]
        for f in facts:
            v = summary[f].values[r]
            row.append(esc(v) if summary[f].values.dtype == object else num(float(v)))
        row += [with_interval(*(float(summary[c].values[r])
                                for c in (m, m + "_ci_low", m + "_ci_high"))) for m in metrics]
        rows.append(row)
    return table(headings, rows)


# ---- plots ----

class Scale:
    """A linear or logarithmic axis from data to pixels."""

    def __init__(self, values, start, end, log=False, pad=0.06, include=()):
        values = [v for v in list(values) + list(include) if math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(values), max(values)) if values else (0, 1)
        self.log = log
        if log:
            low, high = math.log(low), math.log(high)
        span = (high - low) or max(abs(high), 1) * 0.1
        self.low, self.high = low - pad * span, high + pad * span
        self.start, self.end = start, end

    def __call__(self, v):
        v = math.log(v) if self.log else v
        return self.start + (v - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted=5):
        if self.log:
            low, high = math.exp(self.low), math.exp(self.high)
            all_ticks = [m * 10.0**e for e in range(-12, 13) for m in (1, 1.5, 2, 3, 5, 7)]
            inside = [t for t in all_ticks if low <= t <= high]
            step = max(1, math.ceil(len(inside) / (wanted + 2)))
            if len(inside) > 2:
                return inside[::step]
            return [t for t in self._even(low, high, wanted) if t > 0]
        return self._even(self.low, self.high, wanted)

    @staticmethod
    def _even(low, high, wanted):
        raw = (high - low) / wanted
        unit = 10.0 ** math.floor(math.log10(raw))
        step = min((s * unit for s in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
        first = math.ceil(low / step)
        return [k * step for k in range(first, int(math.floor(high / step)) + 1)]


def forest(comparisons, metric, methods):
    """Differences of one metric with their intervals, zero and the margin."""
    percent = metric in RATIOS
    rows = []
    for r in range(comparisons.n_rows):
        if str(comparisons["metric"].values[r]) != metric:
            continue
        v = [float(comparisons[c].values[r]) for c in ("delta", "ci_low", "ci_high")]
        if not math.isfinite(v[0]):
            continue
        if percent:
            v = [100 * math.expm1(x) for x in v]
        margin = comparisons.numbers("margin")[r]
        rows.append((str(comparisons["a"].values[r]), str(comparisons["b"].values[r]), v,
                     str(comparisons["verdict"].values[r]),
                     100 * math.expm1(margin) if percent else margin,
                     comparisons.numbers("items_needed")[r]))
    if not rows:
        return ""
    margin = rows[0][4]
    # One that is far off would make a line of all others: it is drawn at the edge, with its number.
    size = sorted(max(abs(x) for x in row[2] if math.isfinite(x)) for row in rows)
    usual = size[max(0, (2 * len(size)) // 3 - 1)]
    limit = max(size[-1] if size[-1] <= 6 * max(usual, margin) else 3 * max(usual, margin), margin)
    # Name and verdict stand above their line, so that a phone shows them in one piece.
    wide, left, right, step, top = 480, 16, 16, 40, 10
    height = top + step * len(rows) + 30
    clip = [min(limit, max(-limit, x)) for row in rows for x in row[2] if math.isfinite(x)]
    x = Scale(clip, left, wide - right, include=(0, margin, -margin))
    out = [f'<svg class="forest" viewBox="0 0 {wide} {height}" role="img" '
           f'aria-label="{esc(title_of(metric))}">']
    out.append(f'<rect x="{x(-margin):.1f}" y="{top - 8}" width="{x(margin) - x(-margin):.1f}" '
               f'height="{step * len(rows) + 8}" fill="#7aa7d9" opacity=".16"/>')
    for t in x.ticks():
        inside = min(max(x(t), 24), wide - 24)  # half of the number's width
        out.append(f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top - 8}" '
                   f'y2="{top + step * len(rows)}" stroke="var(--line)"/>'
                   f'<text class="dim" x="{inside:.1f}" y="{height - 14}" text-anchor="middle">'
                   f'{t:+g}{" %" if percent else ""}</text>')
    out.append(f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{top - 8}" y2="{top + step * len(rows)}" '
               'stroke="var(--fg)"/>')
    rivals = [b for _a, b, *_rest in rows]
    usual_rival = max(rivals, key=rivals.count)
    for i, (a, b, (d, low, high), verdict, _m, needed) in enumerate(rows):
        y = top + step * i + 28
        color = VERDICTS.get(verdict, OTHER)
        name = a if b == usual_rival else f"{a} − {b}"
        if len(name) > 34:
            name = name[:33] + "…"
        at = min(limit, max(-limit, d))
        out.append(f'<text x="2" y="{y - 12:.1f}">'
                   f'<title>{esc(a)} against {esc(b)}</title>{esc(name)}</text>')
        if math.isfinite(low) and math.isfinite(high) and abs(d) <= limit:
            ends = [min(limit, max(-limit, v)) for v in (low, high)]
            out.append(f'<line x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
                       f'stroke="{color}" stroke-width="2.5"/>')
        shape = (f'<circle cx="{x(at):.1f}" cy="{y:.1f}" r="5" fill="{color}"/>' if abs(d) <= limit else
                 f'<path d="M{x(at):.1f} {y - 6:.1f}l{9 if d > 0 else -9} 6l{-9 if d > 0 else 9} 6z" '
                 f'fill="{color}"/>')
        out.append(shape)
        said = verdict.replace("_", "-")
        if math.isfinite(needed):
            said += f" (~{needed:.0f} items)"
        out.append(f'<text x="{wide - 2}" y="{y - 12:.1f}" text-anchor="end" style="fill:{color}">'
                   f'{d:+.3g}{" %" if percent else ""} {esc(said)}</text>')
    out.append("</svg>")
    return "".join(out)


def grid(x, y, wide, height, left, bottom):
    """Lines and numbers at the ticks of both axes."""
    out = []
    for t in x.ticks(6):
        out.append(f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="16" y2="{height - bottom}" '
                   f'stroke="var(--line)"/><text class="dim" x="{x(t):.1f}" y="{height - bottom + 18}" '
                   f'text-anchor="middle">{t:g}</text>')
    for t in y.ticks(5):
        out.append(f'<line x1="{left}" x2="{wide - 20}" y1="{y(t):.1f}" y2="{y(t):.1f}" '
                   f'stroke="var(--line)"/><text class="dim" x="{left - 6}" y="{y(t) + 4:.1f}" '
                   f'text-anchor="end">{t:g}</text>')
    return out


def fronts(f, summary, front, cost, metric):
    """Cost against quality with intervals; names of those that no other dominates."""
    names, methods = summary.texts("name"), summary.texts("method")
    xs, ys = summary.numbers(cost), summary.numbers(metric)
    low, high = summary.numbers(metric + "_ci_low"), summary.numbers(metric + "_ci_high")
    least, most = summary.numbers(cost + "_ci_low"), summary.numbers(cost + "_ci_high")
    log = metric in RATIOS
    keep = [i for i in range(len(names)) if math.isfinite(xs[i]) and math.isfinite(ys[i]) and
            (ys[i] > 0 or not log)]
    if len(keep) < 2:
        return ""
    path = f"pareto/{front}/{metric}"
    best = {str(n) for n in f[path].asstr()[...]} if path in f else set()
    up = summary[metric].higher_is_better is not False
    far, _edge = plot._off_scale(*(v[keep] for v in (ys, low, high)), log, up)
    off = [i for i, away in zip(keep, far) if away]  # the others would be one line
    shown = [i for i in keep if i not in off]
    wide, height, left, bottom = 620, 400, 56, 46
    x = Scale([v for i in shown for v in (xs[i], least[i], most[i])], left + 10, wide - 150, log=True)
    y = Scale([v for i in shown for v in (ys[i], low[i], high[i])], height - bottom, 20, log=log, pad=0.14)
    out = [f'<div class="scroll"><svg viewBox="0 0 {wide} {height}" role="img" aria-label="{esc(title_of(metric))}">']
    out += grid(x, y, wide, height, left, bottom)
    taken = []
    for i in sorted(shown, key=lambda k: names[k] not in best):
        color = COLORS.get(methods[i], OTHER)
        faint = "" if names[i] in best else ' opacity=".45"'
        if math.isfinite(low[i]) and math.isfinite(high[i]) and (low[i] > 0 or not log):
            out.append(f'<line x1="{x(xs[i]):.1f}" x2="{x(xs[i]):.1f}" y1="{y(low[i]):.1f}" '
                       f'y2="{y(high[i]):.1f}" stroke="{color}" stroke-width="2"{faint}/>')
        if least[i] > 0 and math.isfinite(most[i]):
            out.append(f'<line class="across" x1="{x(least[i]):.1f}" x2="{x(most[i]):.1f}" '
                       f'y1="{y(ys[i]):.1f}" y2="{y(ys[i]):.1f}" stroke="{color}" '
                       f'stroke-width="2"{faint}/>')
        out.append(f'<circle cx="{x(xs[i]):.1f}" cy="{y(ys[i]):.1f}" r="6" fill="{color}"{faint}>'
                   f'<title>{esc(names[i])}: {num(xs[i])}, {num(ys[i])}</title></circle>')
        place = next((dy for dy in (-9, 17, -24, 32, -39, 47)
                      if all(abs(x(xs[i]) - px) > 130 or abs(y(ys[i]) + dy - py) > 14
                             for px, py in taken)), -9)
        taken.append((x(xs[i]), y(ys[i]) + place))
        out.append(f'<text x="{x(xs[i]) + 9:.1f}" y="{y(ys[i]) + place:.1f}" '
                   f'style="fill:{color}{";font-weight:600" if names[i] in best else ";opacity:.6"}">'
                   f'{esc(names[i])}</text>')
    unit = summary[cost].unit
    out.append(f'<text x="{(left + wide) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
               f'{esc(title_of(cost))} ({esc(unit)})</text></svg></div>')
    note = ("Off the plot: " + ", ".join(f"{esc(names[i])} ({num(ys[i])})" for i in off) + ". ") if off else ""
    return "".join(out) + (f'<p class="dim">{note}</p>' if note else "")


def heat(summary, metric):
    """Bits by group size, one panel a method and type, where a sweep has such a grid."""
    cells = {}
    names = ("method", "quant_type", "bits", "group_size")
    if any(n not in summary for n in names):
        return ""
    values = summary.numbers(metric)
    for r in range(summary.n_rows):
        key = (str(summary["method"].values[r]), str(summary["quant_type"].values[r]))
        if math.isfinite(values[r]) and int(summary["group_size"].values[r]) != 0:
            cells.setdefault(key, {}).setdefault(
                (int(summary["bits"].values[r]), int(summary["group_size"].values[r])), values[r])
    out = []
    for (method, kind), grid in cells.items():
        bits, groups = sorted({b for b, _g in grid}), sorted({g for _b, g in grid},
                                                             key=lambda g: (g < 0, g))
        if len(bits) < 2 or len(grid) < 3:
            continue
        lowest, highest = min(grid.values()), max(grid.values())
        up = summary[metric].higher_is_better is not False
        rows = []
        for b in bits:
            row = [f"{b} bit"]
            for g in groups:
                v = grid.get((b, g))
                if v is None:
                    row.append("")
                    continue
                if metric in RATIOS and lowest > 0:
                    part = math.log(v / lowest) / (math.log(highest / lowest) or 1)
                else:
                    part = (v - lowest) / ((highest - lowest) or 1)
                part = part if up else 1 - part
                row.append(f'<span style="display:block;padding:.1rem .4rem;background:'
                           f'hsl({8 + 140 * part:.0f} 55% 50% / .35)">{num(v)}</span>')
            rows.append(row)
        out.append(f"<h3>{esc(method)} {esc(kind)}</h3>" +
                   table(["bits \\ group"] + ["row" if g < 0 else str(g) for g in groups], rows))
    return "".join(out)


# ---- per layer ----

def module_errors(f, summary):
    """Relative error of each module, by experiment: the first seed that has it."""
    errors, modules = {}, []
    for name in summary.texts("name"):
        seeds = f.get(f"experiments/{name}/seeds")
        for seed in (seeds or {}):
            group = seeds[seed].get("quantization/modules")
            if group is None or "relative_error" not in group or group["name"].size == 0:
                continue
            names = [str(n) for n in group["name"].asstr()[...]]
            values = group["relative_error"][...]
            if np.isfinite(values).any() and np.nanmax(values) > 0:
                errors[name] = dict(zip(names, values))
                modules += [n for n in names if n not in modules]
            break
    return modules, errors


def least_errors(f, summary, errors, modules):
    """By bits: {module: least error}, and whose weights these are."""
    code_bits = summary.numbers("bits")
    bits = sorted({int(b) for n, b in zip(summary.texts("name"), code_bits)
                   if n in errors and 2 <= b <= 8})
    folder = str(f["provenance"].attrs.get("model_path", "")) if "provenance" in f else ""
    found = lloyd_max.of_model(folder, modules, tuple(bits)) if folder else None
    if found:
        return {b: {m: found.get((m, b), math.nan) for m in modules} for b in bits}, "these weights"
    return {b: dict.fromkeys(modules, lloyd_max.normal(1 << b)) for b in bits}, "normal weights"


def layers_table(f, summary):
    modules, errors = module_errors(f, summary)
    if not errors:
        return ""
    least, whose = least_errors(f, summary, errors, modules)
    highest = max(max(v for v in e.values() if math.isfinite(v)) for e in errors.values())
    lowest = min(min(v for v in e.values() if math.isfinite(v) and v > 0) for e in errors.values())
    span = math.log(highest / lowest) or 1
    rows = []
    for m in modules:
        row = [esc(m.replace("model.layers.", ""))] + [num(e[m]) for e in least.values()]
        for e in errors.values():
            v = e.get(m, math.nan)
            shade = math.log(v / lowest) / span if math.isfinite(v) and v > 0 else 0
            row.append(f'<span style="display:block;padding:0 .4rem;background:'
                       f'hsl({148 - 140 * shade:.0f} 55% 50% / .35)">{num(float(v))}</span>')
        rows.append(row)
    bounds = [f"Lloyd–Max, {b} bit" for b in least]
    return ("<p class=\"dim\">Norm of the error over the norm of the weights, module by module. "
            f"Lloyd–Max: the least that 2<sup>bits</sup> levels for a whole matrix of {whose} can "
            "have; scales by group may go below it, for the bits they cost.</p>" +
            table(["module"] + bounds + list(errors), rows))


# ---- what the device could do ----

def roofline_table(runs, shown):
    headings = ["experiment"] + [f"{p}: {unit}" for p in shown for unit in ("GB/s", "TFLOP/s")]
    rows = []
    for name, device, points in runs:
        limits = roofline.limits_of(device)
        row = [esc(name)]
        for p in shown:
            for value, k in zip(points.get(p, (0, math.nan, math.nan))[1:], (0, 1)):
                part = f' <span class="ci">{100 * value / limits[k]:.2g} %</span>' \
                    if limits and math.isfinite(value) else ""
                row.append(num(value) + part)
        rows.append(row)
    return table(headings, rows)


def roofline_plot(runs):
    """Operations a byte against operations a second, both logarithmic, below the device's limits."""
    device = runs[0][1]
    limits = roofline.limits_of(device)
    points = [(x, speed, name, p) for name, own, ps in runs if own == device
              for p, (x, _rate, speed) in ps.items() if x > 0 and speed > 0]
    wide, height, left, bottom = 620, 400, 72, 46
    xs = [x for x, *_rest in points] + ([limits[1] * 1000 / limits[0]] if limits else [])
    ys = [v for _x, v, *_rest in points] + ([limits[1]] if limits else [])
    x, y = Scale(xs, left + 10, wide - 30, log=True), Scale(ys, height - bottom, 20, log=True)
    out = [f'<div class="scroll"><svg viewBox="0 0 {wide} {height}" role="img" aria-label="Roofline">']
    out += grid(x, y, wide, height, left, bottom)
    if limits:
        knee = limits[1] * 1000 / limits[0]
        low = math.exp(x.low)
        y0 = max(y(low * limits[0] / 1000), 0) if low * limits[0] > 0 else height
        out.append(f'<path d="M{x(low):.1f} {min(y0, height - bottom):.1f}L{x(knee):.1f} '
                   f'{y(limits[1]):.1f}H{wide - 20}" fill="none" stroke="var(--fg)" '
                   'stroke-dasharray="6 4"/>')
    colors = {"prefill": "#0b57a4", "decode": "#b3261e", "throughput": "#00795a", "e2e": "#6b6b6b"}
    for px, v, name, p in points:
        color = colors.get(p.split()[0], OTHER)
        out.append(f'<circle cx="{x(px):.1f}" cy="{y(v):.1f}" r="4.5" fill="{color}" opacity=".75">'
                   f"<title>{esc(name)}, {esc(p)}: {num(v)} TFLOP/s</title></circle>")
    at = left + 16
    for kind, color in colors.items():
        out.append(f'<circle cx="{at}" cy="26" r="4.5" fill="{color}"/>'
                   f'<text x="{at + 9}" y="30">{kind}</text>')
        at += 100
    out.append(f'<text x="{(left + wide) / 2:.0f}" y="{height - 6}" text-anchor="middle">operations '
               f'a byte</text><text transform="translate(16 {height / 2:.0f}) rotate(-90)" '
               'text-anchor="middle">TFLOP/s</text></svg></div>')
    return "".join(out)


def roofline_section(f, summary):
    runs = roofline.read(f, summary.texts("name"))
    if not runs:
        return ""
    limits = roofline.limits_of(runs[0][1])
    said = (f"{esc(runs[0][1])}: {limits[0]} GB/s and {limits[1]} TFLOP/s by its data sheet (dashed); "
            "shares of that in grey." if limits else
            f"{esc(runs[0][1])}: no data sheet is known here, so the achieved rates stand alone.")
    return (roofline_plot(runs) + f'<p class="dim">{said}</p>' +
            roofline_table(runs, roofline.shown_points(runs)))


# ---- the reference study ----

def reference_table(summary):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference_study.csv")
    ours = {n: i for i, n in enumerate(summary.texts("name"))}
    rows = []
    with open(path, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            i = ours.get(row["experiment"])
            def own(c):
                return float(summary.numbers(c)[i]) if i is not None else math.nan
            mine = with_interval(own("coqa_f1"), own("coqa_f1_ci_low"), own("coqa_f1_ci_high"))
            rows.append([esc(row["experiment"]), esc(row["coqa_f1"]), mine, esc(row["model_size_mb"]),
                         num(own("model_size_mb")), esc(row["tokens_per_s"]),
                         num(own("throughput_tok_s_b1")), esc(row["n"])])
    return table(["experiment", "F1 there", "F1 here", "MiB there", "MiB here", "tokens/s there",
                  "tokens/s here", "documents there"], rows)


def provenance_table(f):
    rows = []
    for where in (f, f["provenance"] if "provenance" in f else {}):
        for key in sorted(getattr(where, "attrs", {})):
            value = where.attrs[key]
            text = ", ".join(map(str, value)) if isinstance(value, np.ndarray) else str(value)
            if text and len(text) < 2000:
                rows.append([esc(key), f'<span style="white-space:normal">{esc(text)}</span>'])
    return table(["", "value"], rows, texts=2)


# ---- the page ----

def section(ident, heading, body, about=""):
    if not body:
        return None
    about = f'<p class="dim">{about}</p>' if about else ""
    return ident, heading, f'<h2 id="{ident}">{esc(heading)}</h2>{about}{body}'


def make(f):
    """The page as text."""
    summary, comparisons = (llq_read.read_table(f, n) for n in ("summary", "comparisons"))
    a = f.attrs
    metrics = metrics_of(summary)
    compared = list(dict.fromkeys(comparisons.texts("metric")))
    quality = [m for m in metrics if m in compared or m in TITLES]
    speed = [m for m in metrics if m not in quality]
    percent = 100 * float(a["confidence"])
    drawn = [m for m in quality if m in compared] or quality  # others have no front
    plots = "".join(f"<h3>{esc(title_of(m))}</h3>" + body for m in compared
                    if (body := forest(comparisons, m, summary.texts("method"))))
    size = "".join(f"<h3>{esc(title_of(m))}</h3>" + body for m in drawn
                   if (body := fronts(f, summary, "size_quality", "model_mb", m))) \
        if "model_mb" in summary else ""
    latency = "".join(f"<h3>{esc(title_of(m))}</h3>" + body for m in drawn
                      if (body := fronts(f, summary, "latency_quality", "decode_ms_per_token", m))) \
        if "decode_ms_per_token" in summary else ""
    maps = "".join(f"<h3>{esc(title_of(m))}</h3>" + body for m in drawn if (body := heat(summary, m)))
    sections = [
        section("quality", "Size and quality",
                summary_table(summary, quality, ("bits_per_weight", "model_mb", "compression",
                                                 "n_seeds", "status")),
                f"Brackets: {percent:g} % intervals, across seeds where these matter, else across "
                "items."
                + "".join(f"</p><p><strong>Warning</strong>: {esc(text)}."
                          for text in llq_read.warnings_of(summary))),
        section("differences", "Differences, pair by pair", plots,
                f"Against {esc(a['baseline'])} unless another stands there; paired on the same "
                "items. Lines: intervals; shaded: differences that do not matter (the margin). "
                "Verdicts hold for all pairs at once (Holm); undecided ones say how many "
                "items would decide."),
        section("size", "Size against quality", size,
                "Strong: no other experiment dominates it by a difference that is real."),
        section("latency", "Latency against quality", latency,
                "Strong: no other experiment dominates it by a difference that is real."),
        section("grids", "Bits and group sizes", maps),
        section("speed", "Speed, memory and energy", summary_table(summary, speed, ()) if speed else ""),
        section("roofline", "Achieved and possible", roofline_section(f, summary),
                "What each point of the benchmark must read (weights once a pass, keys and values) and "
                "compute, over its median time."),
        section("layers", "Error by module", layers_table(f, summary)),
        section("reference", "The reference study", reference_table(summary),
                "Its published figures: 50 documents, no intervals. Sizes as Hugging Face counts them."),
        section("provenance", "Provenance", provenance_table(f)),
    ]
    sections = [s for s in sections if s]
    nav = "".join(f'<a href="#{i}">{esc(h)}</a>' for i, h, _b in sections)
    state = "" if a["complete"] else " <strong>The sweep is not complete.</strong>"
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{esc(a['name'] or 'Sweep')}</title><style>{STYLE}</style></head><body>"
            f"<h1>{esc(a['name'] or 'Sweep')}</h1>"
            f"<p class=\"dim\">llq_sweep {esc(a['llq_version'])} ({esc(a['git_commit'])}), started "
            f"{esc(a['created'])}; {int(a['jobs_ok'])} of {int(a['jobs_total'])} jobs succeeded, "
            f"{int(a['jobs_failed'])} failed.{state}</p><nav>{nav}</nav>"
            + "".join(b for _i, _h, b in sections) + "</body></html>\n")
