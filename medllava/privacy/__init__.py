"""Nothing of a patient goes out: names in tags, text burned into pixels, names in captions."""
