"""Asking: who answers, what is asked, and the replies, once each."""
