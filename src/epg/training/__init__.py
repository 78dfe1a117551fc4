"""One loop, its checkpoints and schedules, and the parts that each stage assembles."""
