"""The whole job on a small model and a text that come with the package."""
