"""imageload: put lists of image URLs on Imgur. The few names that a program around it uses."""

from imageload.job import Job, Landed, Report
from imageload.loader import ImageLoad
from imageload.settings import VERSION, Config

__all__ = ["VERSION", "Config", "ImageLoad", "Job", "Landed", "Report"]
