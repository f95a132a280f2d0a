"""Ours and the peers in one run, on the same machine and with the same means."""
