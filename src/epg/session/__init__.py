"""One `epg run`: what is checked before, the process that runs the pipeline, and its end."""
