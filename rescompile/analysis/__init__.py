"""What follows from a network without its weights: cost, paths, dynamic shapes, receptive fields, its table."""
