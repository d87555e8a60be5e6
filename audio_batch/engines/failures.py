"""What the texts of native libraries' errors tell, the same for every engine."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """An error's text without what follows it in native libraries: stacks, advice, addresses."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


def is_device_trouble(text: str) -> bool:
    """Whether an error's text speaks of the GPU, its driver or its libraries."""
    low = text.lower()
    return any(word in low for word in ("cuda", "cudnn", "cublas", "nvrtc", "driver"))
