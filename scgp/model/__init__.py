"""The network (pooled view, transformer), its losses and its saved form."""
