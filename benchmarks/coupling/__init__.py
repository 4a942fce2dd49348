"""The two tools of `make bench-coupling`, the large language model, and the page."""
