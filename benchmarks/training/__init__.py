"""The parts of bench_training: what pruning costs a running training, and what it leaves of the quality."""
