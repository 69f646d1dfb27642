"""Conversation files of others and of ours: read as a stream, turned into records, written."""
