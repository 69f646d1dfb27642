"""Where a server is: what people paste as its address, as the parts that requests are sent to.

Addresses are copied from documents and consoles, so they come with and without scheme, `/v1`,
`/chat/completions`, a deployment or an `api-version`. Each of these means one place.
"""

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from medllava.errors import SetupError

OPENAI_ADDRESS = "https://api.openai.com/v1"
AZURE_API_VERSION = "2024-10-21"
_AZURE_DOMAINS = (
    ".openai.azure.com",
    ".cognitiveservices.azure.com",
    ".services.ai.azure.com",
    ".openai.azure.us",
    ".cognitiveservices.azure.us",
    ".openai.azure.cn",
    ".azure-api.net",
)
_ENDPOINT = re.compile(r"/(?:chat/completions|completions|responses|models/?|embeddings)/*$")
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)")
_NO_KEY = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server, its key, and how requests are put to it."""

    base: str
    """Everything before `/chat/completions`."""
    host: str
    key: str = field(repr=False)
    query: dict[str, str] = field(default_factory=dict)
    """Of every request."""
    headers: dict[str, str] = field(repr=False, default_factory=dict)
    azure_endpoint: str | None = None
    """Of an Azure resource whose addresses hold a deployment; None elsewhere."""

    @property
    def has_key(self) -> bool:
        """Tell whether the key is a secret of the user's."""
        return self.key != _NO_KEY

    @property
    def is_openai(self) -> bool:
        """Tell whether this is OpenAI's own address."""
        return self.host == "api.openai.com"


def parse_address(base_url: str | None, *, model: str) -> Address:
    """Read the address of a server.

    Args:
        base_url: as pasted; None: OpenAI. Of Azure the bare resource, one that ends in
            `/openai/v1`, the target of a deployment, or a Foundry address ending in `/models`.
        model: stands for the deployment where an Azure address holds none.

    Raises:
        SetupError: it is no address, or OpenAI or Azure is asked for and its key is not in the
            environment.
    """
    given = (base_url or OPENAI_ADDRESS).strip()
    if "://" not in given:
        local = re.match(r"(?:localhost|127\.|\[::1\]|0\.0\.0\.0)", given)
        given = f"{'http' if local else 'https'}://{given}"
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError as error:
        raise SetupError(f"not an address ({error}): {base_url}. {_EXAMPLE}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise SetupError(f"not an address: {base_url}. {_EXAMPLE}")
    is_azure = host.endswith(_AZURE_DOMAINS)
    key = _find_key(host, is_azure=is_azure, is_default=base_url is None)
    query = dict(parse_qsl(parts.query))
    root = f"{parts.scheme}://{parts.netloc}"
    if is_azure:
        return _azure(root, parts.path, host=host, key=key, query=query, model=model)
    base = root + _ENDPOINT.sub("", parts.path.rstrip("/")).rstrip("/")
    headers = {"Authorization": f"Bearer {key}"}
    return Address(base=base, host=host, key=key, query=query, headers=headers)


def _azure(
    root: str, path: str, *, host: str, key: str, query: dict[str, str], model: str
) -> Address:
    headers = {"api-key": key}
    version = os.environ.get("OPENAI_API_VERSION", AZURE_API_VERSION)
    if "/openai/v1" in path:
        base = root + path[: path.index("/openai/v1")] + "/openai/v1"
        return Address(base=base, host=host, key=key, query=query, headers=headers)
    query.setdefault("api-version", version)
    deployment = _DEPLOYMENT.search(path)
    if deployment is None and re.search(r"/models(?:/chat/completions)?/*$", path):
        base = root + path[: path.rindex("/models")] + "/models"
        return Address(base=base, host=host, key=key, query=query, headers=headers)
    name = deployment[1] if deployment else model
    # A gateway may put something of its own before the resource's path.
    prefix = path[: path.index("/openai")] if "/openai" in path else path.rstrip("/")
    prefix = re.sub(r"/api/projects/.*$", "", prefix)
    base = f"{root}{prefix}/openai/deployments/{name}"
    return Address(
        base=base, host=host, key=key, query=query, headers=headers, azure_endpoint=root + prefix
    )


def _find_key(host: str, *, is_azure: bool, is_default: bool) -> str:
    names = ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY") if is_azure else ("OPENAI_API_KEY",)
    key = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if key is None and (is_azure or is_default):
        raise SetupError(
            f"no API key for {host}: {names[0]} is not set. Export it, or give --base-url of a "
            "server that needs none."
        )
    return (key or _NO_KEY).strip()


_EXAMPLE = "Give one such as http://localhost:8000/v1."
