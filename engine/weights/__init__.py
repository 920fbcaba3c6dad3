"""Weights: checkpoints, pretrained models by name, downloads. `python -m engine.weights -h`."""
