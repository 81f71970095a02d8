"""A model on disk, whatever its format, as roles: what convert, engine and inspect all read."""
