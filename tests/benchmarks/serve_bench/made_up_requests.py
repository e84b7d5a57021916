"""Requests that schemathesis makes up from the service's own description (/openapi.json)."""

from __future__ import annotations

import subprocess
import tempfile


def run_schemathesis(program: str, port: int, examples: int, seed: int = 1) -> int:
    """Run schemathesis 4 against a service on loopback, and print its summary and what failed.

    It checks that no answer is a server error, is of an undescribed type, or takes more than a minute. (The statuses of
    errors are not in the description, and many bodies that fit it are refused, as a picture that is none: other checks are
    off.)

    Args:
        program: its path.
        examples: requests for each route at most.

    Returns:
        Its exit code: 0 if no check failed.
    """
    command = [
        program,
        "run",
        f"http://127.0.0.1:{port}/openapi.json",
        "--checks=not_a_server_error,content_type_conformance",
        "--phases=examples,coverage,fuzzing",
        f"--max-examples={examples}",
        f"--seed={seed}",
        "--request-timeout=60",
        "--suppress-health-check=all",
        "--continue-on-failure",
        "--workers=2",
    ]
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print("\n".join(f"    {line}" for line in result.stdout.splitlines()[-60:]), flush=True)
    return result.returncode
