"""From PubMed Central to a biomedical vision-language assistant.

The package root is deliberately empty of imports: `medllava --help` must not load torch. Use the
step functions directly, for example `medllava.pmc.fetch.fetch_figures`.
"""

__version__ = "0.1.0"
