"""The parts of Towhee that we use, whichever generation is installed: 0.9.0 (which has two registries), 1.x, or the
unreleased head.

Raises:
    SetupError: on import, if Towhee is missing or cannot be imported.
"""

from __future__ import annotations

import contextlib
import warnings

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.foundation.optional_imports import missing_package

try:
    with host_unchanged():
        from towhee.operator import NNOperator as NNOperator
        from towhee.operator import PyOperator as PyOperator
        from towhee.operator import SharedType as SharedType
        from towhee.runtime.operator_manager import OperatorRegistry as OperatorRegistry
        from towhee.types import Image as Image
except Exception as error:  # setuptools 82 has no pkg_resources, which Towhee imports; 1.1.0 fails with pydantic 2
    raise SetupError(
        f"Towhee cannot be imported ({error}). The Towhee operators need it: pip install towhee 'setuptools<81'. "
        "image_text_embedding.load works without it."
    ) from error

try:  # only 0.9.0 has these: `dc`, `glob` and `towhee.ops` use this registry, dc2 uses the one above
    with host_unchanged():
        from towhee.engine.operator_registry import OperatorRegistry as LegacyRegistry
        from towhee.hub.file_manager import FileManagerConfig
except ModuleNotFoundError:
    LegacyRegistry = FileManagerConfig = None

# What Towhee's own helpers need -> the extra of ours that installs it.
_EXTRAS = {"opencv-python": "towhee-show", "matplotlib": "towhee-show", "ipython": "towhee-show", "dill": "triton"}


def refuse_to_install(package: str) -> None:
    """Takes the place of Towhee's `prompt_install`, which runs pip in the user's environment without asking.

    Towhee's helpers call it when a package is missing: `.show()` in a notebook, `build_pipeline_model`. Most of them hide
    the error that it raises behind one of their own, so it warns, too.

    Raises:
        SetupError: always, with the command for the user to run.
    """
    extra = _EXTRAS.get(package)
    error = (
        SetupError(f"Towhee needs {package}, which is missing: pip install {package}")
        if extra is None
        else missing_package(package, extra, "this part of Towhee")
    )
    warnings.warn(str(error), stacklevel=2)
    raise error


with contextlib.suppress(ImportError), host_unchanged():  # a later Towhee may not have it
    from towhee.utils import dependency_control

    dependency_control.prompt_install = refuse_to_install
