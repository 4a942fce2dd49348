"""A model and its coupling in; what its kept forwards require of a cut out: mended numbers, ties, frozen axes."""
