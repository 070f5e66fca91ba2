"""Reports on runs: metrics, tables and curves of one or several runs, plots, and an HTML page that works offline."""
