"""Commands about runs that train."""
