"""Rewards for the policies that other projects train: a reward model as the reward function of each trainer.

    import basereward.rewards
    trainer = GRPOTrainer(model, reward_funcs=basereward.rewards.trl("RUN"), ...)

Every function takes a model as `basereward.load` does, or the address of a server of `basereward serve`.
"""

from basereward.rewards.trainers import ms_swift, openrlhf, trl, verl

__all__ = ["ms_swift", "openrlhf", "trl", "verl"]
