"""Reports: tables, plain data for JSON, and plots."""
