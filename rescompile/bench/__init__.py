"""Benchmarks: interleaved rounds, intervals, result files, tables, figures, comparisons, the search, predictions.

This package times what `rescompile.runtimes` prepares; it calls no library that runs networks except torch, for references.
"""
