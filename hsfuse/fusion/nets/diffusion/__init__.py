"""A diffusion prior of small colour patches: what images of the ground look like, learned without any pairs."""
