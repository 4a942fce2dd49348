"""A model as a graph of ATen ops, and what its dimensions have in common."""
