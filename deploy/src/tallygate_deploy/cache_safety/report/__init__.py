"""The bench's scores as one HTML file, which asks for nothing else: no script, no font, no image from elsewhere."""

from tallygate_deploy.cache_safety.report.page import page

__all__ = ["page"]
