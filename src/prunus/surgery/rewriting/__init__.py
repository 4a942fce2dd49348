"""A graph and a plan in; the edited graph, and the forwards that are written from it, out."""
