"""What operators need of a server, a file each."""
