"""Files: reading and writing checkpoints. Knows neither models nor quantization."""
