"""Trained models to answers on images."""
