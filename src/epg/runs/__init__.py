"""A run: its places in the store, its records, doing work once, and the door of a component."""
