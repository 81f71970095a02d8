"""What is fast and how much it costs, as ratios in one run; `results/` holds the JSON."""
