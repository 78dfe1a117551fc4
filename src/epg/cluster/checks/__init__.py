"""The checks of `epg doctor`, by what they look at."""
