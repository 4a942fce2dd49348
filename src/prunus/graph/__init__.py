"""A model and its example inputs in; its graph of ATen ops and the coupling of all tensor dims out."""
