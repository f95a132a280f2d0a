"""Batches to losses or predictions."""
