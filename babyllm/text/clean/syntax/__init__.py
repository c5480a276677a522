"""Text that is not prose: code, tables and markup, told line by line."""
