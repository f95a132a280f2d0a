"""Numbers to tables."""
