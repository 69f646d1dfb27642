"""A run becomes a publication: card, licence ledger and upload."""
