"""Writing files that are never torn: atomic writes, checksum trailers, file types."""
