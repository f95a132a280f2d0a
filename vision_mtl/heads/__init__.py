"""One file per head type."""
