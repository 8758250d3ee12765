"""Training: the loop, its shards, its metrics and its checkpoints."""
