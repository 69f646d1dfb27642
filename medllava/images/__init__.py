"""A file to a picture, the same for every door: reading, windowing, limits, encoding."""
