"""A Hugging Face or AWQ folder -> a TurboMind workspace, the format of LMDeploy 0.1 to 0.6."""
