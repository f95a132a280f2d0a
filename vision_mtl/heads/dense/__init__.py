"""Pure tensor functions that dense detection heads share."""
