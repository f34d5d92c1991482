"""The former place of `export_lora`, which scripts import from here; it is in `lorweb_core.export` now."""

from ..export.lora_export import export_lora

__all__ = ["export_lora"]
