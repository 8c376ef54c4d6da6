"""What is changed, as pure functions of tensors: every random draw is an argument or has its seed and index as arguments."""
