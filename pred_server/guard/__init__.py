"""What keeps one caller from taking the server from the others."""
