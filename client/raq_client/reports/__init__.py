"""What people and programs are shown: tables, plain data, pictures."""
