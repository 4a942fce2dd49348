"""Model, coupling and plan in; a smaller model and the proof that it equals the masked original out."""
