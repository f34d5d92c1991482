"""Writing files: under names that stay in their folder, whole or not at all, and never two writers in one place."""
