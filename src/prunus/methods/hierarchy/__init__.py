"""The hierarchical procedure: settings of nodes, evaluation, choice of strategies, and pruning level by level."""
