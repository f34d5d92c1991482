"""Fit a mixture to example pairs: the coefficients are found by what they make, and not only guessed by an encoder."""
