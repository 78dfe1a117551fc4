"""The rules for compiled pipelines: a function each, which yields findings of one line."""
