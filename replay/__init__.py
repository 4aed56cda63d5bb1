"""Record, simulate, import, play and compare traffic."""
