"""Compute Student's t distribution and quantiles of the beta distribution without SciPy.

The normal distribution comes from the standard library (`statistics.NormalDist`). The distribution function is a
regularized incomplete beta function, evaluated by its continued fraction (modified Lentz, Numerical Recipes
section 6.4). Quantiles invert it by bisection. Tests compare both with SciPy, where it is installed, to nine digits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()


def normal_quantile(p: float) -> float:
    """Return the inverse of the normal distribution function."""
    return _NORMAL.inv_cdf(p)


def t_cdf(t: float, df: float) -> float:
    """Return Student's distribution function; `df` may be fractional or infinite."""
    if math.isinf(df):
        return _NORMAL.cdf(t)
    if math.isinf(t * t):  # a difference over an error that is nearly 0
        return 0.0 if t < 0 else 1.0
    total = df + t * t
    tail = 0.5 * _incomplete_beta(df / total, t * t / total, df / 2, 0.5)
    return tail if t < 0 else 1.0 - tail


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """Return the inverse of `t_cdf`, found by bisection."""
    if math.isinf(df):
        return _NORMAL.inv_cdf(p)
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


@lru_cache(maxsize=1024)
def beta_quantile(p: float, a: float, b: float) -> float:
    """Return the inverse of the distribution function of a beta distribution, found by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _incomplete_beta(middle, 1 - middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, y: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction (modified Lentz).

    `y` is 1 - x; the subtraction would lose digits where x is nearly 1.
    """
    if x <= 0.0 or y <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(y, x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / (1.0 + numerator * d or tiny)
            c = 1.0 + numerator / c or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * result
