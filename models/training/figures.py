"""The statistics that model cards quote: AUROC with its interval, calibration, and bounds on a miss rate."""

import numpy as np
from scipy.optimize import minimize
from scipy.stats import beta, binom, rankdata


def auroc(truth, score):
    """Area under the ROC curve; ties count half. nan without both classes."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[truth == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def resamples(groups, count, seed):
    """Row indices of bootstrap samples that draw whole patients, since one patient's films are alike."""
    generator = np.random.default_rng(seed)
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(index.max() + 2))
    rows = [order[starts[i]: starts[i + 1]] for i in range(index.max() + 1)]
    for _ in range(count):
        yield np.concatenate([rows[i] for i in generator.integers(0, len(rows), len(rows))])


def interval(statistic, groups, count=400, seed=7):
    """95 % percentile interval of a statistic of row indices, by resampling patients."""
    values = np.array([statistic(rows) for rows in resamples(groups, count, seed)])
    values = values[~np.isnan(values)]
    return [float(v) for v in np.percentile(values, [2.5, 97.5])] if len(values) else [float("nan")] * 2


def auroc_figure(truth, score, groups):
    """AUROC as {value, low, high, n, positives}."""
    low, high = interval(lambda rows: auroc(truth[rows], score[rows]), groups)
    value = auroc(truth, score)
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(truth),
            "positives": int(truth.sum())}


def share(hits, total):
    """A proportion with its exact (Clopper-Pearson) 95 % interval."""
    low = beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return {"value": round(hits / max(total, 1), 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": total}


def platt(logits, truth):
    """Scale and bias so that sigmoid(scale * logit + bias) is calibrated; lightly held at scale 1."""

    def loss(parameters):
        z = parameters[0] * logits + parameters[1]
        return np.logaddexp(0, z).sum() - (truth * z).sum() + 2.0 * (parameters[0] - 1) ** 2

    scale, bias = minimize(loss, [1.0, 0.0], method="Nelder-Mead").x
    return float(max(scale, 0.05)), float(bias)


def calibration_error(truth, probability, bins=10):
    """Expected calibration error over bins of equal count."""
    order = np.argsort(probability)
    parts = np.array_split(order, bins)
    return float(sum(len(p) * abs(truth[p].mean() - probability[p].mean()) for p in parts if len(p)) / len(truth))


def clear_threshold(scores, bound=0.02, confidence=0.95):
    """The largest threshold under which, with that confidence, at most `bound` of abnormal films fall.

    `scores` are of abnormal calibration films. The k-th smallest is safe when k - 1 misses among n would be seen
    with probability at most 1 - confidence if the true rate were above the bound (exact binomial). The miss rate
    grows with the threshold, so the choice over k needs no further correction. None: too few films to clear any.
    """
    ordered = np.sort(scores)
    safe = [k for k in range(len(ordered)) if binom.cdf(k, len(ordered), bound) <= 1 - confidence]
    if not safe:
        return None, 0
    misses = max(safe)
    return float(ordered[misses]), misses
