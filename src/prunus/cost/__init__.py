"""A graph and its coupling in; exact parameters, MACs, bytes and memory of any plan out, without a run."""
