"""A plug-in of pytest: hyperopt's own tests, with our ``fmin`` in the place of hyperopt's."""

from __future__ import annotations

import hyperopt

from search import fmin

hyperopt.fmin = fmin
