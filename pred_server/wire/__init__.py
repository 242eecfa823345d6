"""What travels between client and server, and what is checked."""
