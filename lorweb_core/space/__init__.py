"""Walking the space of LoRAs: look at a mixture, change it, blend it, keep it, hand it on; and whole bases."""
