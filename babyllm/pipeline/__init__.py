"""What every offline stage needs: partitions, outputs that are complete or absent, reports."""
