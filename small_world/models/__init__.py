"""The four models of the small world, each made by one command."""
