"""A model, its cut copy and the plan in; the proof that the copy computes what the masked original computes out."""
