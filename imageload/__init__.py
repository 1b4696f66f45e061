"""imageload: put lists of image URLs on Imgur. The few names that a program around it uses."""

from imageload.config import VERSION, Config
from imageload.job import Job, Landed, Report
from imageload.loader import ImageLoad

__all__ = ["VERSION", "Config", "ImageLoad", "Job", "Landed", "Report"]
