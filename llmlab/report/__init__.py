"""What runs and sweeps leave to look at: curves, pictures, tables."""
