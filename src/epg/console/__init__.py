"""What `epg run` shows and does around the compiled pipeline; no command parses here."""
