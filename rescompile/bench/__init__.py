"""What is measured, and what may be said of it: interleaved rounds, intervals, result files, tables, figures, comparisons.

Nothing here knows a library that runs networks: `rescompile.runtimes` prepares them, and this package times what it is given.
"""
