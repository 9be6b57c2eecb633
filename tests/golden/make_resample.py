"""Reference values of tests/test_resample.c:
python3 tests/golden/make_resample.py > tests/golden/resample.json

Needs numpy and scipy (made with scipy 1.17.1, numpy 2.4.6).  The bootstrap is scipy's own BCa, run on
the replicates of stored cluster indices; sign flips are its exact permutation test of cluster sums."""

import json

import numpy as np
from scipy import stats


def groups_of(cluster):
    return [np.flatnonzero(cluster == g) for g in np.unique(cluster)]


def bootstrap(x, cluster, n_draws, rng):
    groups = groups_of(cluster)
    sums = np.array([x[g].sum() for g in groups])
    counts = np.array([len(g) for g in groups])
    c = len(groups)
    pick = rng.integers(0, c, (n_draws, c))

    def mean(index, axis=-1):
        return sums[index].sum(axis=axis) / counts[index].sum(axis=axis)

    stored = mean(pick)
    before = stats.bootstrap((np.arange(c),), mean, n_resamples=2, method="percentile")
    before.bootstrap_distribution = stored
    limits = []
    for confidence in (0.9, 0.95):
        i = stats.bootstrap((np.arange(c),), mean, n_resamples=0, bootstrap_result=before,
                            method="BCa", confidence_level=confidence).confidence_interval
        limits.append([confidence, i.low, i.high])
    return {"x": x.tolist(), "cluster": cluster.tolist(), "pick": pick.ravel().tolist(),
            "n_draws": n_draws, "replicates": stored.tolist(), "bca": limits}


def sign_flip(x, cluster):
    sums = np.array([x[g].sum() for g in groups_of(cluster)])
    test = stats.permutation_test((sums,), lambda s, axis: s.sum(axis=axis), n_resamples=np.inf,
                                  permutation_type="samples", vectorized=True)
    return {"x": x.tolist(), "cluster": cluster.tolist(), "p": float(test.pvalue)}


def equivalence(x, margin):
    low = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    high = stats.ttest_1samp(x, margin, alternative="less").pvalue
    return {"x": x.tolist(), "margin": margin, "tost": max(low, high), "non_inferior": low,
            "detectable": (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * stats.sem(x)}


def bounded(x, least, most):
    p, se = (x.mean() - least) / (most - least), stats.sem(x) / (most - least)
    n, t = p * (1 - p) / se**2, stats.t.ppf(0.975, len(x) - 1)
    centre = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * np.sqrt(p * (1 - p) / n + t * t / (4 * n * n))
    return {"x": x.tolist(), "least": least, "most": most,
            "low": least + (most - least) * (centre - half),
            "high": least + (most - least) * (centre + half)}


def main():
    rng = np.random.default_rng(21)
    cluster = rng.permutation(np.sort(rng.integers(0, 14, 60)) * 977)
    skewed = np.round(rng.lognormal(0, 1, 60), 6)
    binary = (rng.random(40) < 0.8) * 1.0
    few = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9])
    mcnemar = [[b, c, float(stats.binomtest(b, b + c).pvalue),
                float(min(1, 2 * stats.binom.cdf(min(b, c), b + c, 0.5)
                          - stats.binom.pmf(min(b, c), b + c, 0.5)))]
               for b, c in [(1, 0), (5, 5), (2, 9), (30, 61), (400, 520), (7000, 7300)]]
    print(json.dumps({
        "bootstrap": [bootstrap(skewed, cluster, 400, rng),
                      bootstrap(binary, np.arange(40), 300, rng)],
        "sign_flip": [sign_flip(np.round(rng.normal(0.3, 1, 14), 6), few),
                      sign_flip(np.round(rng.integers(-1, 2, 14) * 0.25 + 0.1, 6), few),
                      sign_flip(np.array([0.5, 0.5, 0.5, -0.5, 0.5]), np.arange(5))],
        "mcnemar": mcnemar,
        "equivalence": [equivalence(np.round(rng.normal(0.002, 0.02, 30), 6), 0.01),
                        equivalence(np.round(rng.normal(-0.02, 0.2, 12), 6), 0.01)],
        "bounded": [bounded(np.round(rng.beta(5, 0.3, 12), 6), 0, 1),
                    bounded(np.array([1, 1, 1, 1, 0.5]), 0, 1),
                    bounded(np.array([-1, -1, -1, -0.5]), -1, 1)],
    }, indent=None, default=float))


main()
