"""How a model is kept: saved, checked, and loaded."""
