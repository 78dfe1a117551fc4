"""What is drawn while one waits, and what is said at the end."""
