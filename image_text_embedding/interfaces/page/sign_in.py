"""Signing in to the page of a server with an API key: a form asks for the key, and a cookie proves that it was given."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie

COOKIE = "image_text_embedding_page"

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>image-text-embedding</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; background: #f6f7f9; color: #202124; margin: 0; }}
form {{ max-width: 22rem; margin: 18vh auto 0; padding: 0 1.25rem; }}
h1 {{ font-size: 1.25rem; margin: 0 0 1rem; }}
input, button {{ font: inherit; box-sizing: border-box; width: 100%; padding: .6rem .75rem; border-radius: 8px; }}
input {{ border: 1px solid #767b85; background: #fff; color: inherit; }}
button {{ margin-top: .75rem; border: 0; background: #143c96; color: #fff; font-weight: 600; cursor: pointer; }}
input:focus-visible, button:focus-visible {{ outline: 3px solid #8fb0ff; outline-offset: 1px; }}
p {{ background: #fdecea; color: #8c1d18; border-radius: 8px; padding: .6rem .75rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #17181b; color: #e8e9ec; }}
  input {{ background: #222429; }} button {{ background: #3d66c9; }} p {{ background: #4a1c1a; color: #ffd9d6; }} }}
</style>
</head>
<body>
<form method="post" action="sign-in">
<h1><label for="key">The API key of this server</label></h1>
{problem}<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button>Open the page</button>
</form>
</body>
</html>
"""

WRONG_KEY = (
    '<p role="alert">This is not the key of this server. It was given as --api-key when the server was started.</p>\n'
)


def sign_in_form(was_wrong: bool) -> bytes:
    """The HTML of the form."""
    return TEMPLATE.format(problem=WRONG_KEY if was_wrong else "").encode("utf-8")


def cookie_header(key: str, is_https: bool) -> str:
    """The value of Set-Cookie for a browser that gave the key; it lasts until the browser is closed."""
    return f"{COOKIE}={_proof(key)}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_https else "")


def is_signed_in(key: str, cookies: str) -> bool:
    """Whether a Cookie header has the proof of the key."""
    try:
        given = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return False
    return given is not None and hmac.compare_digest(given.value.encode("utf-8"), _proof(key).encode("ascii"))


def _proof(key: str) -> str:
    # Not the key itself, which would open the whole service to whoever reads the cookie. It is the same after a restart.
    return hmac.new(key.encode("ascii"), b"image-text-embedding page", "sha256").hexdigest()
