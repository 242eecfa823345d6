"""What predicts, and how it is kept."""
