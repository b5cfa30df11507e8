"""The encoder of short utterances: statistics of the padding, and the gate that it has to pass.

May import: `export.modules`, `export.graphs`, `export.made_up_speech`, `runtime`.
"""
