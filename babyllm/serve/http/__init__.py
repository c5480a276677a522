"""HTTP connections, and checks of requests before they reach the API."""
