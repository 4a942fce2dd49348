"""The parts of bench_oneshot: cells against a peer, the ladder, sample counts, solvers and their cost."""
