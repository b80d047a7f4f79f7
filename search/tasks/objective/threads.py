"""How many threads the libraries of an objective may use. Worker code."""

from __future__ import annotations

import os

# read by OpenMP, OpenBLAS, MKL, Accelerate, numexpr, joblib and polars when they are loaded
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "POLARS_MAX_THREADS",
)


def limit_threads(count: int) -> None:
    """Have libraries use ``count`` threads: those that are loaded, and those to come.

    ``n_jobs=-1`` then means ``count`` processes or threads.
    """
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)  # numpy's BLAS is loaded by now
