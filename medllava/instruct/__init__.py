"""Figure records become instruction records: captions in, conversations out."""
