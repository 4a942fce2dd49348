"""prunus: hierarchical pruning for any PyTorch network."""
