"""A run becomes a publication: card, license report and upload."""
