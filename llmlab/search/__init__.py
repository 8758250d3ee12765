"""A search for the best values of keys: which trial comes next, on Optuna."""
