"""What there is to look at. Pillow draws it, which every ComfyUI has."""
