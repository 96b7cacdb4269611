"""Send the chat page with a policy that allows nothing but its own script and style."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse

from gpt2chat.serve.errors import ApiError

FILE = Path(__file__).parent / "index.html"


async def page_response(_: Request) -> HTMLResponse:
    """Send the page.

    Raises:
        ApiError: This installation has no page.
    """
    try:
        html = FILE.read_text("utf-8")
    except FileNotFoundError:
        raise ApiError("This installation has no page.", 404) from None
    # By hash, the policy allows these scripts and styles, and none that a reply brings along.
    allowed: list[str] = []
    for tag in ("script", "style"):
        texts = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts]
        sources = [f"'sha256-{each.decode()}'" for each in hashes] or ["'none'"]
        allowed.append(f"{tag}-src {' '.join(sources)}")
    policy = (
        f"default-src 'none'; {'; '.join(allowed)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        html,
        headers={
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        },
    )
