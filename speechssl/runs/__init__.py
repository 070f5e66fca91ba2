"""Comparing training runs: reading and joining their logs, tables, pictures, one page that opens offline."""
