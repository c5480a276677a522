"""Evaluation of chat models on conversations: loss, accuracy of closed tasks, greedy answers, carry-over."""
