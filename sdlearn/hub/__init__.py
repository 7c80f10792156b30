"""Checkpoints: known by name, fetched from the hub, read without running anything, or built at random."""
