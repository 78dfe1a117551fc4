"""Every command of `epg`, defined here and only here; its body imports what it needs."""
