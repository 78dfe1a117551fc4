"""Feature networks, behind one interface: what a network sees in images, and its figures."""
