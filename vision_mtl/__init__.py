"""One ResNet-FPN trunk, a box detector and image-level heads, trained and judged together."""

__version__ = "0.1.0"
