"""A recipe in; trained networks, comparisons, plan folders and citations out."""
