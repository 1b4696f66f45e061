"""What those who operate the service ask it."""

from __future__ import annotations

from web.base import BaseHandler


class HealthHandler(BaseHandler):
    """GET /healthz: 200 and `{"status": "ok"}` as long as the process answers at all."""

    def get(self) -> None:
        """Answer that we live."""
        self.answer({"status": "ok"})
