"""What `babyllm COMMAND` does: a module per command, with `ARGUMENTS`, `Flags` and `run(flags, *arguments)`."""
