"""The transformer, its losses and its saved form."""
