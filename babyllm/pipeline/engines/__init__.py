"""What runs the jobs of an offline command: a pool of processes, a Ray cluster, or commands beside each other."""
