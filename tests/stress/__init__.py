"""Long runs under stress: killed at any instant, with a full disk, twice in a row."""
