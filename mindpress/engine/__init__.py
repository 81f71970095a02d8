"""Run a model: the runtime that chat and validate use, in plain torch."""
