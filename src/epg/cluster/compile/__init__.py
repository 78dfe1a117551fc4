"""From Python to the compiled files, and the rules that these must satisfy."""
