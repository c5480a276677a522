"""Rewards: functions `(prompts, answers, records) -> list[float | None]`, several added up by weight.

RewardConfig -> make_rewards -> Rewards -> a number for each answer, or None where there is none
"""
