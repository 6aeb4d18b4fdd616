"""Maximum a posteriori estimate behind any fusion method, and non-local Bayesian denoising."""
