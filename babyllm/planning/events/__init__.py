"""What a step of training takes and frees, tensor by tensor, in a ledger that keeps the peak."""
