"""Training: losses and loaders for your own loop, and the trainers of classifiers and generators."""
