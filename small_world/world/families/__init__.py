"""The world of families: richer scenes, and edits with parameters."""
