"""Keeps onnxruntime from sending what it runs to its makers.

From 1.29 on its packages tell mobile.events.data.microsoft.com of every process and session, on Linux and
macOS too, and keep an identifier in ~/.cache/Microsoft. What this variable says counts when onnxruntime is
imported, and no call stops it later (https://github.com/microsoft/onnxruntime/pull/27379). Importing this
module sets it; whoever wants the reports sets it to 0.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
