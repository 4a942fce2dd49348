"""A model, inputs and labelled data in; counts, quality, and latency and energy ratios with intervals, out."""
