"""What is usual of a loss: findings on a run's own curve, curves to compare it with, and the test of learning rates."""
