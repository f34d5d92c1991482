"""The plain world: one object in a landscape, and edits that set its attributes."""
