"""What went wrong, where, and what to write instead; how it is rendered, and the exit code of each failure."""
