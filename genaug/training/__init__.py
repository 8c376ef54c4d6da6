"""Training: generators and classifiers."""
