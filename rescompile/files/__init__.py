"""Output files that are never left partially written: atomic writes, checksum trailers, file types."""
