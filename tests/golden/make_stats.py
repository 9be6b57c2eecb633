"""Reference values of tests/test_stats.c: python3 tests/golden/make_stats.py > tests/golden/stats.json

Needs numpy, scipy and mpmath (made with scipy 1.17.1, numpy 2.4.6, mpmath 1.4.1).  Distributions come
from scipy and are checked here against mpmath with 60 digits; estimates are written out in numpy, or
come from scipy where it has them (t tests, Wilson, ANOVA)."""

import json

import mpmath
import numpy as np
from scipy import special, stats

mpmath.mp.dps = 60


def sure(value, exact, what):
    """scipy's value, once mpmath agrees; else mpmath's, rounded to double."""
    exact = float(exact)
    if abs(value - exact) > 1e-12 * abs(exact):
        print(what, value, exact, file=__import__("sys").stderr)
    return exact


def normal():
    z = [-37.0, -8.25, -3.0, -1.0, -1e-3, 0.0, 0.5, 1.96, 5.0]
    p = [1e-300, 1e-100, 1e-17, 1e-6, 0.001, 0.025, 0.05, 0.3, 0.499999, 0.5, 0.75, 0.975, 0.9999]
    return {
        "cdf": [[x, sure(stats.norm.cdf(x), mpmath.ncdf(x), "ncdf")] for x in z],
        "quantile": [[q, float(special.ndtri(q))] for q in p],
    }


def student():
    two, quantile = [], []
    for df in [1, 2, 2.5, 4, 9.25, 30, 79, 499, 5000.5, 99999.5, 1e5, 1e6, 1e8]:
        for t in [1e-8, 0.1, 1.0, 2.0, 4.3, 12.7, 40.0, 1e5]:
            v, x = mpmath.mpf(df), mpmath.mpf(t)
            exact = mpmath.betainc(v / 2, mpmath.mpf(1) / 2, 0, v / (v + x * x), regularized=True)
            if exact > 1e-290:
                two.append([t, df, sure(2 * stats.t.sf(t, df), exact, ("t", t, df))])
        for p in [1e-12, 1e-4, 0.005, 0.025, 0.05, 0.4, 0.5, 0.9, 0.975, 0.9995]:
            q = stats.t.ppf(p, df)
            if p != 0.5:  # one Newton step with 60 digits
                v = mpmath.mpf(df)

                def cdf(x):
                    tails = mpmath.betainc(v / 2, mpmath.mpf(1) / 2, 0, v / (v + x * x),
                                           regularized=True)
                    return 1 - tails / 2 if x > 0 else tails / 2

                def density(x):
                    return mpmath.exp(-(v + 1) / 2 * mpmath.log1p(x * x / v)) / (
                        mpmath.sqrt(v) * mpmath.beta(v / 2, mpmath.mpf(1) / 2))

                exact = mpmath.mpf(float(q))
                for _ in range(3):
                    exact -= (cdf(exact) - mpmath.mpf(p)) / density(exact)
                q = sure(q, exact, ("tq", p, df))
            quantile.append([p, df, float(q)])
    return {"two_sided": two, "quantile": quantile}


def beta():
    rows = []
    for a, b in [(0.5, 0.5), (1, 3), (2.5, 7.25), (9.5, 10.5), (12, 4000), (300, 280), (1e5, 0.5)]:
        for x in [1e-6, 0.05, 0.3, 0.5, 0.52, 0.9, 0.999]:
            try:
                exact = mpmath.betainc(a, b, 0, x, regularized=True)
            except ValueError:  # its series does not converge: scipy alone
                exact = special.betainc(a, b, x)
            if exact > 1e-290:
                rows.append([a, b, x, sure(special.betainc(a, b, x), exact, ("beta", a, b, x))])
    return rows


def binomial():
    return [[n, k, float(stats.binom.cdf(k, n, 0.5))]
            for n, k in [(1, 0), (6, 0), (9, 1), (10, 1), (10, 5), (30, 9), (1000, 468), (1000, 999)]]


def clustered(x, cluster):
    x, cluster = np.asarray(x), np.asarray(cluster)
    groups = np.unique(cluster)
    residual = [np.sum(x[cluster == g] - x.mean()) for g in groups]
    c = len(groups)
    se = np.sqrt(c / (c - 1) * np.sum(np.square(residual))) / len(x)
    t = stats.t.ppf(0.975, c - 1)
    iid = stats.sem(x)
    return {"mean": x.mean(), "se": se, "df": c - 1, "low": x.mean() - t * se,
            "high": x.mean() + t * se, "design_effect": (se / iid) ** 2}


def crossed(x, cluster):
    """Items crossed with seeds, on sums of residuals; singletons: a two-way ANOVA without repeats."""
    x, cluster = np.asarray(x), np.asarray(cluster)
    groups = np.unique(cluster)
    m = x.mean()
    s = np.array([(x[cluster == g] - m).sum(axis=0) for g in groups])
    n, r = s.shape
    ms_i = r * np.sum((s.mean(axis=1) - s.mean()) ** 2) / (n - 1)
    ms_r = n * np.sum((s.mean(axis=0) - s.mean()) ** 2) / (r - 1)
    rest = s - s.mean(axis=1, keepdims=True) - s.mean(axis=0, keepdims=True) + s.mean()
    ms_e = np.sum(rest**2) / ((n - 1) * (r - 1))
    both = ms_i + ms_r - ms_e
    se = np.sqrt(max(both, ms_i, ms_r) / (n * r)) * n / len(x)
    df = both**2 / (ms_i**2 / (n - 1) + ms_r**2 / (r - 1) + ms_e**2 / ((n - 1) * (r - 1)))
    t = stats.t.ppf(0.975, max(df, 1))
    return {"mean": m, "se": se, "df": max(df, 1), "low": m - t * se, "high": m + t * se}


def estimates(rng):
    x = np.round(rng.beta(4, 2, 37), 6)
    y = np.round(np.clip(x - rng.normal(0.03, 0.1, 37), 0, 1), 6)
    cluster = np.sort(rng.integers(0, 9, 37)) * 1000003
    cluster = cluster[rng.permutation(37)]
    table = np.round(rng.normal(0.6, 0.2, (11, 1)) + rng.normal(0, 0.1, (11, 4))
                     + rng.normal(0, 0.08, (1, 4)), 6)
    table_cluster = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6])
    iid = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    iid90 = stats.ttest_1samp(x, 0).confidence_interval(0.90)
    paired = stats.ttest_rel(x, y)
    d = clustered(x - y, cluster)
    return {
        "x": x.tolist(), "y": y.tolist(), "cluster": cluster.tolist(),
        "mean": float(np.mean(x)), "sd": float(np.std(x, ddof=1)), "median": float(np.median(x)),
        "quantiles": [[q, float(np.quantile(x, q))] for q in [0, 0.05, 0.25, 0.5, 0.9, 1]],
        "iid": {"low": iid.low, "high": iid.high, "low90": iid90.low, "high90": iid90.high},
        "clustered": clustered(x, cluster),
        "paired_singletons_p": float(paired.pvalue),
        "paired": {**d, "p": float(2 * stats.t.sf(abs(d["mean"] / d["se"]), d["df"]))},
        "crossed_x": table.ravel().tolist(), "crossed_items": 11, "crossed_seeds": 4,
        "crossed_cluster": table_cluster.tolist(),
        "crossed": crossed(table, np.arange(11)),
        "crossed_clustered": crossed(table, table_cluster),
    }


def main():
    rng = np.random.default_rng(20)
    wilson = []
    for k, n in [(0, 1), (0, 80), (1, 3), (40, 80), (79, 80), (80, 80), (499, 500)]:
        for confidence in [0.9, 0.95]:
            i = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
            wilson.append([k, n, confidence, i.low, i.high])
    median = []
    for n in [6, 7, 10, 30, 100, 1001]:
        k = int(stats.binom.ppf(0.025, n, 0.5))  # the least with P(X <= k) >= 0.025
        while k > 0 and stats.binom.cdf(k - 1, n, 0.5) > 0.025:
            k -= 1
        median.append([n, k])
    print(json.dumps({"normal": normal(), "student": student(), "beta": beta(),
                      "binomial_half": binomial(), "wilson": wilson, "median_rank": median,
                      "estimates": estimates(rng)}, indent=1, default=float))


main()
