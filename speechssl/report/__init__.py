"""Runs looked at: figures, tables and curves of one or many, pictures, one page that opens offline."""
