"""What can be said of a network without its weights: cost, paths, dynamic shapes, receptive fields, its table."""
