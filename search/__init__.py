"""How a search runs: data, searcher, trials, tracking, refit, registry."""
