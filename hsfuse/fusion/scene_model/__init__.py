"""What is known about a pair: signal subspace, noise, blur and shift, and how the guide follows from the HSI."""
