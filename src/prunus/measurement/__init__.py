"""What a model costs and what it gives: counts, prices, latency, quality, stability."""
