"""Tables of one's own pictures to figure records, the form that everything else here reads."""
