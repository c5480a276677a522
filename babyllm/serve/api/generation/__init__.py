"""What all endpoints that generate text share: fields, requests, deltas of answers, and how they are sent."""
