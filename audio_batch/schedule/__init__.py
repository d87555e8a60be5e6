"""The schedule: which job begins next, and where. Pure functions of numbers and snapshots.

`earliest_finish` decides, `speeds` learns what a job costs, `bound` says what no schedule can beat,
`simulation` tries them without a device. The older policies are in `audio_batch.gpu.policies`.
"""
