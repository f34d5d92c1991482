"""Turn folders of pictures into batches of encoded analogies."""
