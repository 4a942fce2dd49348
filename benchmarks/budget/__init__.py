"""The parts of bench_budget: exactness, speed of allocation, milliseconds, and the levels against each other."""
