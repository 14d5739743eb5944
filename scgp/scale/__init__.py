"""What runs beside memory: many machines, files written in place."""
