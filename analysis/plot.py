"""plot.py - size and latency against quality, and differences, with the file's intervals."""

import math
import textwrap

import matplotlib

matplotlib.use("Agg")  # no display on login nodes
import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

import labels

# Okabe and Ito's colours, distinct with every kind of colour vision; shapes say the same again.
STYLES = {
    "none": ("#000000", "*"),
    "bnb_8bit": ("#0072B2", "s"),
    "bnb_4bit": ("#D55E00", "o"),
    "rtn": ("#009E73", "D"),
    "gptq": ("#CC79A7", "^"),
    "awq": ("#E69F00", "v"),
    "hqq": ("#56B4E9", "P"),
}
OTHER_STYLE = ("#666666", "X")

METRICS = {  # title of a panel
    "coqa_f1": "CoQA F1",
    "perplexity": "Perplexity",
}
LABELS_MAX = 40  # with more points only those are named that no other beats in size and quality
LOG_METRICS = ("perplexity",)  # a ratio says more than a difference
SIZES = {
    "model_mb": "model size (MiB)",
    "bits_per_weight": "stored bits per weight",
}
LATENCY = "decode_ms_per_token"
VERDICTS = {"better": "#009E73", "equivalent": "#0072B2", "non_inferior": "#56B4E9",
            "worse": "#D55E00"}


def _plain(value, _position=None):
    return f"{value:g}"


def _use_log(axis_set, axis, values):
    """A logarithmic axis with plain numbers, where the values spread over more than twofold."""
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) < 2 or values.max() / values.min() <= 2:
        axis.set_major_locator(MaxNLocator(6))
        return
    axis_set("log")
    ratio = values.max() / values.min()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if ratio < 10 else (1, 2, 5) if ratio < 200 else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _draw_baseline(ax, y, low, high, name):
    if not math.isfinite(y):
        return
    if math.isfinite(low) and math.isfinite(high):
        ax.axhspan(low, high, color="#000000", alpha=0.06, lw=0, zorder=0)
    ax.axhline(y, color="#000000", lw=0.9, ls=(0, (5, 4)), alpha=0.6, zorder=1, label=name)


def _draw_points(ax, methods, x, y, low, high):
    for method in dict.fromkeys(methods):
        color, marker = STYLES.get(method, OTHER_STYLE)
        mine = [i for i, m in enumerate(methods) if m == method]
        for i in mine:
            if math.isfinite(low[i]) and math.isfinite(high[i]):
                ax.plot([x[i], x[i]], [low[i], high[i]], color=color, lw=1.4, alpha=0.85,
                        solid_capstyle="butt", zorder=3)
                ax.plot([x[i]] * 2, [low[i], high[i]], color=color, lw=0, marker="_", ms=6,
                        mew=1.4, zorder=3)
        ax.plot(x[mine], y[mine], lw=0, marker=marker, color=color, mec="white", mew=0.7,
                ms=14 if marker == "*" else 8, alpha=0.9, zorder=4, label=method)


def _obstacles(ax, x, y, low, high, baseline_y, scale):
    """Boxes of markers, error bars and the line of the baseline in pixels."""
    boxes = []
    if math.isfinite(baseline_y):
        frame = ax.get_window_extent()
        py = ax.transData.transform((x[0], baseline_y))[1]
        boxes.append((frame.x0, py - scale, frame.x1, py + scale))
    for i in range(len(x)):
        px, py = ax.transData.transform((x[i], y[i]))
        r = 6.0 * scale
        boxes.append((px - r, py - r, px + r, py + r))
        if math.isfinite(low[i]) and math.isfinite(high[i]):
            y0 = ax.transData.transform((x[i], low[i]))[1]
            y1 = ax.transData.transform((x[i], high[i]))[1]
            boxes.append((px - 4 * scale, y0 - scale, px + 4 * scale, y1 + scale))
    return boxes


def _front(x, y, higher_is_better):
    """Indices of points that no other point beats in size and quality."""
    y = y if higher_is_better else -y
    return [i for i in range(len(x))
            if not np.any((x <= x[i]) & (y >= y[i]) & ((x < x[i]) | (y > y[i])))]


def _draw_labels(fig, ax, names, methods, x, y, low, high, baseline_y, front):
    """Needs the final limits of the axes."""
    renderer = fig.canvas.get_renderer()
    scale = fig.dpi / 100
    obstacles = _obstacles(ax, x, y, low, high, baseline_y, scale)
    if len(names) > LABELS_MAX:
        names, methods, x, y = zip(*[(names[i], methods[i], x[i], y[i]) for i in front])
    points = [tuple(ax.transData.transform((x[i], y[i]))) for i in range(len(x))]
    texts = []
    for i, name in enumerate(names):
        color = STYLES.get(methods[i], OTHER_STYLE)[0]
        texts.append(ax.text(0, 0, name, fontsize=8, color=color, va="bottom", ha="left",
                             transform=None, zorder=6, path_effects=[
                                 effects.withStroke(linewidth=2.2, foreground="white")]))
    sizes = []
    for t in texts:
        box = t.get_window_extent(renderer)
        sizes.append((box.width + 2 * scale, box.height + 2 * scale))
    frame = ax.get_window_extent(renderer)
    inner = (frame.x0 + 3 * scale, frame.y0 + 3 * scale, frame.x1 - 3 * scale, frame.y1 - 3 * scale)
    boxes = labels.place(points, sizes, obstacles, inner, scale)
    to_axes = ax.transAxes.inverted()
    for i, t in enumerate(texts):
        corner = to_axes.transform((boxes[i][0] + scale, boxes[i][1] + scale))
        t.set_transform(ax.transAxes)  # so that the PDF, at another resolution, agrees
        t.set_position(tuple(corner))
        end = labels.nearest(boxes[i], points[i])
        if math.dist(end, points[i]) > labels.LEADER * scale:
            ends = to_axes.transform([points[i], end])
            ax.plot(ends[:, 0], ends[:, 1], transform=ax.transAxes, lw=0.7, alpha=0.8,
                    color=STYLES.get(methods[i], OTHER_STYLE)[0], zorder=2)


def _off_scale(y, low, high, log, higher_is_better):
    """Which points lie so far on the bad side that the others would be one line, and the place
    at the edge where they are drawn instead."""
    value = np.log(y) if log else np.asarray(y, dtype=float)
    value = value if higher_is_better else -value  # the bad side is below
    order = np.argsort(-value)
    off = np.zeros(len(y), dtype=bool)
    for n_kept in range(max(2, (2 * len(y) + 2) // 3), len(y)):
        kept = order[:n_kept]
        ends = np.concatenate([y[kept], low[kept], high[kept]])
        ends = ends[np.isfinite(ends) & ((ends > 0) | (not log))]
        ends = np.log(ends) if log else ends
        span = ends.max() - ends.min()
        if value[kept].min() - value[order[n_kept]] > 3 * span > 0:
            off[order[n_kept:]] = True
            bad = ends.min() if higher_is_better else ends.max()
            edge = bad - 0.25 * span if higher_is_better else bad + 0.25 * span
            return off, math.exp(edge) if log else edge
    return off, math.nan


def _draw_off_scale(ax, methods, x, edge, off, higher_is_better):
    for i in np.flatnonzero(off):
        color = STYLES.get(methods[i], OTHER_STYLE)[0]
        ax.plot([x[i]], [edge], marker="v" if higher_is_better else "^", ms=9, lw=0,
                color=color, mec="white", mew=0.7, zorder=5)


def _panel(ax, summary, metric, size, baseline):
    """Draws all but the names; returns what they need."""
    x, y = summary.numbers(size), summary.numbers(metric)
    low, high = summary.numbers(metric + "_ci_low"), summary.numbers(metric + "_ci_high")
    keep = np.isfinite(x) & np.isfinite(y)
    names = summary.texts("name")
    methods = summary.texts("method")
    baseline_y = math.nan
    if baseline in names:
        b = names.index(baseline)
        baseline_y = float(y[b])
        _draw_baseline(ax, baseline_y, low[b], high[b], baseline)
    index = np.flatnonzero(keep)
    x, y, low, high = x[index], y[index], low[index], high[index]
    names = [names[i] for i in index]
    methods = [methods[i] for i in index]
    column = summary[metric]
    up = column.higher_is_better is not False
    front = _front(x, y, up)
    off, edge = _off_scale(y, low, high, metric in LOG_METRICS, up)
    names = [f"{n} ({v:.3g}, off scale)" if o else n for n, v, o in zip(names, y, off)]
    y, low, high = (np.where(off, v, a) for v, a in ((edge, y), (math.nan, low), (math.nan, high)))
    _use_log(ax.set_xscale, ax.xaxis, x)
    if metric in LOG_METRICS:
        _use_log(ax.set_yscale, ax.yaxis, y)
    shown = np.flatnonzero(~off)
    _draw_points(ax, [methods[i] for i in shown], x[shown], y[shown], low[shown], high[shown])
    _draw_off_scale(ax, methods, x, edge, off, up)
    better = {True: " (higher is better)", False: " (lower is better)"}.get(
        column.higher_is_better, "")
    ax.set_title(METRICS.get(metric, metric) + better, fontsize=11, loc="left")
    ax.set_xlabel(SIZES.get(size, "decode (ms a token)" if size == LATENCY else size), fontsize=10)
    for i in shown:  # sizes have no interval
        least, most = (summary.numbers(size + end)[index[i]] for end in ("_ci_low", "_ci_high"))
        if math.isfinite(least) and math.isfinite(most):
            ax.plot([least, most], [y[i], y[i]], lw=1.4, alpha=0.85, zorder=3,
                    color=STYLES.get(methods[i], OTHER_STYLE)[0])
    ax.margins(x=0.16, y=0.14)
    ax.grid(True, which="major", color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9, color="#888888", which="both")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#888888")
    return names, methods, x, y, low, high, baseline_y, front


def _draw_foot(fig, axes, baseline, confidence):
    """Legend and note below the panels; leaves room for them."""
    wide = len(axes) > 1
    handles = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels()):
            handles.setdefault(name, handle)
    if baseline in handles:  # the line of the baseline comes last
        handles[f"baseline {baseline}"] = handles.pop(baseline)
    note = (f"Bars: {100 * confidence:g} % confidence intervals as stored by llq_sweep, across "
            "seeds where seeds matter, else across items. Shaded: interval of the baseline.")
    fig.tight_layout(rect=(0, 0.07 if wide else 0.085, 1, 0.98), w_pad=2.0)
    fig.legend(list(handles.values()), list(handles), loc="lower left", ncol=len(handles),
               fontsize=9, frameon=False, bbox_to_anchor=(0.005, 0.022 if wide else 0.04),
               handletextpad=0.4, columnspacing=1.4)
    fig.text(0.012, 0.010, textwrap.fill(note, 105 * len(axes)), fontsize=8, color="#555555",
             va="bottom")


def size_quality(summary, size, title, baseline, confidence, paths):
    """Writes the plot to every path; returns the metrics that are in it."""
    metrics = [m for m in METRICS
               if np.isfinite(summary.numbers(m) + summary.numbers(size)).any()]
    if not metrics:
        return []
    fig, axes = plt.subplots(1, len(metrics), figsize=(0.6 + 6.2 * len(metrics), 6.2), dpi=150,
                             squeeze=False)
    axes = axes[0]
    fig.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    drawn = [_panel(ax, summary, m, size, baseline) for ax, m in zip(axes, metrics)]
    _draw_foot(fig, axes, baseline, confidence)
    fig.canvas.draw()  # the limits are final now
    for ax, what in zip(axes, drawn):
        limits = ax.get_xlim(), ax.get_ylim()
        _draw_labels(fig, ax, *what)
        ax.set_xlim(limits[0])
        ax.set_ylim(limits[1])
    _save(fig, paths)
    return metrics


def _save(fig, paths):
    for path in paths:
        # No time of writing inside: the same results give the same files.
        fig.savefig(path, metadata={"CreationDate": None} if path.endswith(".pdf") else None)
    plt.close(fig)


def differences(comparisons, title, paths):
    """Differences pair by pair with intervals, margin and verdict, a panel a metric; as above."""
    v = {c: comparisons.numbers(c) for c in ("delta", "ci_low", "ci_high", "margin")}
    a, b, metric, verdict = (comparisons.texts(c) for c in ("a", "b", "metric", "verdict"))
    known = [r for r in range(comparisons.n_rows) if math.isfinite(v["delta"][r])]
    metrics = list(dict.fromkeys(metric[r] for r in known))
    if not metrics:
        return []
    most = max(sum(metric[r] == m for r in known) for m in metrics)
    fig, axes = plt.subplots(1, len(metrics), figsize=(0.6 + 5.0 * len(metrics), min(1.6 + 0.3 * most, 400)),
                             dpi=150, squeeze=False)
    fig.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    for ax, m in zip(axes[0], metrics):
        rows = [r for r in known if metric[r] == m]
        ax.axvspan(-v["margin"][rows[0]], v["margin"][rows[0]], color="#7aa7d9", alpha=0.16, lw=0)
        ax.axvline(0, color="#444444", lw=1)
        for y, r in enumerate(rows):
            color = VERDICTS.get(verdict[r], OTHER_STYLE[0])
            if math.isfinite(v["ci_low"][r]) and math.isfinite(v["ci_high"][r]):
                ax.plot([v["ci_low"][r], v["ci_high"][r]], [y, y], color=color, lw=2)
            ax.plot(v["delta"][r], y, "o", color=color, ms=6)
        ax.set_yticks(range(len(rows)), [f"{a[r]} − {b[r]}\n{verdict[r].replace('_', '-')}"
                                         for r in rows], fontsize=7)
        ax.invert_yaxis()
        # One that is far off would make a line of all others.
        ends = sorted(max(abs(v[c][r]) for c in ("delta", "ci_low", "ci_high")
                          if math.isfinite(v[c][r])) for r in rows)
        usual = max(ends[max(0, 2 * len(ends) // 3 - 1)], v["margin"][rows[0]])
        if ends[-1] > 6 * usual:
            ax.set_xlim(-3 * usual, 3 * usual)
            far = [f"{a[r]} {v['delta'][r]:+.3g}" for r in rows if abs(v["delta"][r]) > 3 * usual]
            ax.set_xlabel(textwrap.fill("off the plot: " + ", ".join(far), 60) if far else "",
                          fontsize=8)
        ax.set_title(METRICS.get(m, m) + (" (logarithm)" if m in LOG_METRICS else ""), fontsize=11,
                     loc="left")
        ax.grid(True, axis="x", color="#e4e4e4", lw=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(axis="x", labelsize=8)
    fig.tight_layout(rect=(0, 0, 1, 0.98))
    _save(fig, paths)
    return metrics
