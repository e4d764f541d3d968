"""Images, captions and CLIP tokens of the stimulus sets."""
