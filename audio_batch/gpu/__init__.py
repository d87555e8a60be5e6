"""The GPUs of this machine: what they are, how busy they are, and which one takes the next task.

`probe` reads the driver (`nvml`, else `nvidia_smi`), `devices` gives CUDA's numbers their UUIDs,
`capacity` says how many tasks a device may take, `balancer` hands out the slots. Nothing in here
imports torch or ctranslate2.
"""
