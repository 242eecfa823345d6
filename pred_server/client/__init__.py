"""How to ask."""
