"""Reports as single HTML files: pure functions from values to strings, everything escaped."""
