"""A command every night, by the scheduler that the system has: cron, systemd, or Windows' own.

What is to be done is data first (`steps`): it can be shown, and is then done as it was shown.
"""
