"""What predicts: a model, and the engine of scikit-learn."""
