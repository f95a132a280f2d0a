"""Each head alone and all heads together, trained with the same means, and what comes of either."""
