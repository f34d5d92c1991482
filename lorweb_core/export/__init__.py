"""Write mixtures as ordinary LoRAs."""
