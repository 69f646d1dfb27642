"""The archive becomes figure records: PubMed Central in, a Parquet manifest with images out."""
