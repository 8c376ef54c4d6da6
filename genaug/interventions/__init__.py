"""What is changed, as pure functions of tensors: every draw is an argument, or its seed and index are."""
