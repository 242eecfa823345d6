"""What happens to a call."""
