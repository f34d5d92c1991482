"""Run and train the method on diffusers' FLUX.1 Kontext."""
