"""A run, or several, as one HTML page with plots, and the plots as images; see docs/adr/0023-page.md."""
