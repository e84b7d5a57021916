"""Gradio, imported so that it reports nothing to anybody."""

from __future__ import annotations

import os
from typing import Any

from image_text_embedding.foundation.optional_imports import import_optional

# Gradio reads them when it is imported, and huggingface_hub, which it imports, too.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

gr: Any = import_optional("gradio", "page", "serve --page")
