"""Read the training YAML."""
