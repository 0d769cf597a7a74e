"""The tiny pipeline that the guidance tests use."""

from tests.guidance.conftest import stable_diffusion

__all__ = ["stable_diffusion"]
