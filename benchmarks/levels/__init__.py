"""Hierarchical pruning beside single levels, and every variant to the letter beside the improved one."""
