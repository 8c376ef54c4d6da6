"""`genaug demo`: the effect of counterfactual images, on digits or on your own photographs, in minutes."""
