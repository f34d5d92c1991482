"""The drawn world: scenes, edits, and analogies of them."""
