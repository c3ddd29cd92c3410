"""Signing in: a token, kept by the browser in a cookie that no script can read."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.callers import COOKIE
from gateway.pages.view import View

_SECONDS: Final = 12 * 3600


def routes(view: View, *, secure: bool) -> list[Route]:
    async def ask(view: View, request: Request) -> Response:
        return view.render(request, "sign_in.html")

    async def sign_in(view: View, request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=5)
        token = str(form.get("token", "")).strip()
        if not token or not token.isascii() or not token.isprintable():
            return view.render(request, "sign_in.html", status=400)
        response = view.go("/runs")
        response.set_cookie(COOKIE, token, max_age=_SECONDS, httponly=True, samesite="strict", secure=secure)
        return response

    async def sign_out(view: View, request: Request) -> Response:
        response = view.go("/sign-in")
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure)
        return response

    return [
        Route("/sign-in", view.page(ask), name="sign in"),
        Route("/sign-in", view.page(sign_in), methods=["POST"]),
        Route("/sign-out", view.page(sign_out), methods=["POST"]),
    ]
