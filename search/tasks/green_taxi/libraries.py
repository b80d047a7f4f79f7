"""What a taxi trial's score depends on beside its point and its data."""

from __future__ import annotations

from search.values.fitted_with import FittedWith

FITTED_WITH = FittedWith(
    packages=("scipy", "scikit-learn", "xgboost", "numba"), modules=("trainables",)
)
